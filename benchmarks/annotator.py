"""What choosing cases is worth: a simulated annotator labels a pool case by case, retrains, and is measured.

Of three families of phantoms, unequal in size and difficulty (support/families.py), cases are labelled up to budgets of
1 to 20; at each budget the network goes on learning from all that is labelled, as Update Model does
(`retraining.finetuning` on `retraining.retrain`'s cases, without rehearsal, for nothing else is measured), and mean
Dice after one simulated click is measured on cases that nobody labels. Every seed has a pool, clicks and a training of
its own. What is done is kept in `--folder`, a file for each (strategy, seed, budget), so that a run that was stopped
goes on.

    python benchmarks/annotator.py --folder build/annotator --seeds 3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from support.curves import draw_curves
from support.families import POOL, VALIDATION, FamilyCase, write_families
from support.report import report
from torch.nn import functional as F

from lib.images.volumes import open_volume
from lib.learning.case_subjects import AnnotatedCases
from lib.learning.cases import CaseStore
from lib.learning.made_volumes import PHANTOM_USES, MadeVolumes, shown_phantom
from lib.learning.pools import Mixture
from lib.network.build import build_sam3d
from lib.network.deltas import put_state, tuned_state
from lib.network.sam3d import Sam3D
from lib.network.weights import Card, load_weights, save_weights
from lib.retraining.finetuning import FinetuningPlan, finetune, learn_chains, plan_for
from lib.retraining.gate import Patch, measure
from lib.retraining.opened_cases import open_cases, validation_patches
from lib.scoring.calibration import load
from lib.scoring.image_score import ScoreSettings, score_volume
from lib.scoring.selection import METHODS, Known, Pool
from lib.settings import Settings, TrainingSettings
from lib.weights.checkpoints import open_network

BUDGETS = (1, 2, 4, 8, 12, 16, 20)
STRATEGIES = ("random", "first", *METHODS)
# Patches of so many voxels a side, so many mm apart, so that two cores do in an hour what the question needs.
PATCH_SIZE, SPACING_MM = 32, 2.0
# Synthetic patches that make the demo model fit for these, before anything is labelled; then steps at each budget.
FITTING_STEPS, STEPS = 120, 60
LEARNING_RATE = 8e-4
# Budgets before which all cases are scored again by the network as it is then; in between, the last scores count.
SCORED_AT = (1, 8)
VALIDATION_STREAM, POOL_STREAM = 99, 100
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "active-learning.png"


@dataclass(frozen=True)
class Cell:
    """What one strategy has reached with one seed at one budget."""

    strategy: str
    seed: int
    budget: int
    labelled: tuple[str, ...]
    families: dict[str, int]
    dice: float
    dice_by_family: dict[str, float]


class Laboratory:
    """The network to begin with, the cases to validate on, and a folder for what was done."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.settings = replace(Settings(labels=("lesion",)), model_folder=folder / "model")
        path = folder / "base.safetensors"
        if not path.exists():
            save_weights(*_fitted(self.settings), path)
        self.base, self.card = load_weights(path)
        cases = write_families(folder / "validation", VALIDATION, VALIDATION_STREAM)
        self._family = {each.case.id: each.family for each in cases}
        # The first patch of every case: there are three, in turn.
        self._patches: list[Patch] = validation_patches(self.store(cases, augmented=False))[: len(cases)]

    def store(self, cases: Sequence[FamilyCase], augmented: bool) -> CaseStore:
        return open_cases(self.settings, [each.case for each in cases], self.card, augmented)

    def network(self) -> Sam3D:
        """A copy of the network that every run begins with."""
        network = build_sam3d(self.card.network)
        network.load_state_dict(self.base.state_dict())
        return network.eval()

    def validate(self, network: Sam3D) -> dict[str, float]:
        """Mean Dice after one click, over cases, and by family."""
        scores = measure(network.eval(), self._patches, n_clicks=1)
        by_case: dict[str, list[float]] = {}
        for each in scores.patches:
            by_case.setdefault(each.case, []).append(each.dices[0])
        means = {case: float(np.mean(dices)) for case, dices in by_case.items()}
        families = {
            family: float(np.mean([dice for case, dice in means.items() if self._family[case] == family]))
            for family in VALIDATION
        }
        return {"all": float(np.mean(list(means.values()))), **families}


class Run:
    """One strategy with one seed, from budget to budget."""

    def __init__(self, laboratory: Laboratory, strategy: str, seed: int) -> None:
        self.laboratory, self.strategy, self.seed = laboratory, strategy, seed
        self.folder = laboratory.folder / "runs" / f"{strategy}-{seed}"
        self.cases = write_families(laboratory.folder / f"pool-{seed}", POOL, POOL_STREAM + seed)
        self.rng = np.random.default_rng([31, seed])

    def cell(self, budget: int) -> Cell:
        """What is reached at a budget: from its file, or done now from the budget before."""
        path = self.folder / f"{budget:02}.json"
        if path.exists():
            return Cell(**{**json.loads(path.read_text()), "labelled": tuple(json.loads(path.read_text())["labelled"])})
        network, labelled = self._before(budget)
        labelled = self._extended(network, labelled, budget)
        chosen = [each for each in self.cases if each.case.id in labelled]
        store = self.laboratory.store(chosen, augmented=True)
        plan = _plan(self.laboratory.steps, seed=1000 * self.seed + budget)
        own = Mixture([AnnotatedCases(store, sought="lesion")], [1.0])
        finetune(network, learn_chains(network, own, plan), plan, lambda _: None)
        scores = self.laboratory.validate(network)
        families = {family: sum(each.family == family for each in chosen) for family in POOL}
        cell = Cell(self.strategy, self.seed, budget, labelled, families, scores.pop("all"), scores)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file({name: each.contiguous() for name, each in tuned_state(network).items()}, self._weights(budget))
        path.write_text(json.dumps(asdict(cell)))
        return cell

    def _before(self, budget: int) -> tuple[Sam3D, tuple[str, ...]]:
        network, earlier = self.laboratory.network(), [each for each in BUDGETS if each < budget]
        if not earlier:
            return network, ()
        labelled = self.cell(earlier[-1]).labelled
        put_state(network, load_file(self._weights(earlier[-1])))
        return network, labelled

    def _extended(self, network: Sam3D, labelled: tuple[str, ...], budget: int) -> tuple[str, ...]:
        """The labelled cases with as many more as the budget allows, chosen with the network as it stands."""
        names = sorted(each.case.id for each in self.cases)
        if self.strategy == "first":
            return tuple(names[:budget])
        if self.strategy == "random":
            return tuple(str(name) for name in np.random.default_rng([31, self.seed]).permutation(names)[:budget])
        pool = Pool(self._scores(network, budget))
        while len(labelled) < budget:
            free = [name for name in names if name not in labelled]
            choice = pool.choose(free, set(labelled), set(), self.strategy)
            assert choice is not None, "the pool is larger than any budget"
            labelled = (*labelled, choice.image)
        return labelled

    def _scores(self, network: Sam3D, budget: int) -> dict[str, Known]:
        path = self.folder / f"scores-{max(each for each in SCORED_AT if each <= budget):02}.json"
        if path.exists():
            return {case: Known(tuple(row), clicks) for case, (row, clicks) in json.loads(path.read_text()).items()}
        known = {}
        for each in self.cases:
            volume = open_volume(each.case.image)
            score = score_volume(network, self.laboratory.card, volume, ScoreSettings(), load())
            known[each.case.id] = Known(score.features, score.expected_clicks)
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({case: [each.features, each.expected_clicks] for case, each in known.items()}))
        return known

    def _weights(self, budget: int) -> Path:
        return self.folder / f"{budget:02}.safetensors"


def _plan(steps: int, seed: int) -> FinetuningPlan:
    """The plan of Update Model, with one click a patch, as that is what is measured, and one short epoch of large
    steps, for that is all that two cores do in the time."""
    settings = TrainingSettings(
        max_epochs=1, steps_per_epoch=steps, click_rounds=1, train_seed=seed, learning_rate=LEARNING_RATE
    )
    return plan_for(settings, "tiny", torch.device("cpu"))


def _fitted(settings: Settings) -> tuple[Sam3D, Card]:
    """The demo model on patches of PATCH_SIZE voxels, after some steps on synthetic ones alone."""
    demo, card = open_network(settings)
    size = replace(card.network, patch_size=PATCH_SIZE)
    network, state = build_sam3d(size), dict(demo.state_dict())
    depth = state["image_encoder.depth_embed"]
    state["image_encoder.depth_embed"] = F.adaptive_avg_pool1d(depth.movedim(-1, 1), size.grid_size).movedim(1, -1)
    network.load_state_dict(state)
    plan = _plan(FITTING_STEPS, seed=7)
    mixture = Mixture([MadeVolumes(shown_phantom, PHANTOM_USES, 0, plan.seed)], [1.0])
    finetune(network, learn_chains(network, mixture, plan), plan, lambda _: None)
    return network, replace(card, network=size, spacing_mm=SPACING_MM, version=f"{card.version}, small")


def labels_to(curve: Sequence[float], goal: float) -> float | None:
    """Labelled cases at which a curve over BUDGETS first reaches a Dice, between budgets by a straight line."""
    for place, dice in enumerate(curve):
        if dice >= goal:
            if place == 0:
                return float(BUDGETS[0])
            low, high = curve[place - 1], dice
            share = (goal - low) / (high - low)
            return round(BUDGETS[place - 1] + share * (BUDGETS[place] - BUDGETS[place - 1]), 1)
    return None


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """Means over seeds at the budgets that all seeds of a strategy have reached."""
    found: dict[str, Any] = {}
    for strategy in dict.fromkeys(cell.strategy for cell in cells):
        own = [cell for cell in cells if cell.strategy == strategy]
        seeds = sorted({cell.seed for cell in own})
        rows = [[c.dice for c in sorted(own, key=lambda c: c.budget) if c.seed == seed] for seed in seeds]
        length = min(len(row) for row in rows)
        table = np.array([row[:length] for row in rows])
        found[strategy] = {
            "budgets": BUDGETS[:length],
            "dice": table.mean(axis=0).round(4).tolist(),
            "deviation": table.std(axis=0, ddof=min(1, len(rows) - 1)).round(4).tolist(),
            "by_seed": table.round(4).tolist(),
        }
    if "random" in found and len(found["random"]["dice"]) == len(BUDGETS):
        goal = found["random"]["dice"][-1]
        for each in found.values():
            each["labels_to_random_at_20"] = labels_to(each["dice"], goal)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("build/annotator"))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=["random", "first", "hybrid"])
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--cells", type=int, help="do no more than so many new cells, and draw what there is")
    options.add_argument("--picture", type=Path, default=PICTURE)
    args = options.parse_args()
    laboratory = Laboratory(args.folder, args.steps)
    done: list[Cell] = []
    room = args.cells
    for seed in range(args.seeds):
        for budget in BUDGETS:
            for strategy in args.strategies:
                run = Run(laboratory, strategy, seed)
                is_new = not (run.folder / f"{budget:02}.json").exists()
                if is_new and room == 0:
                    continue
                cell = run.cell(budget)
                room = room - 1 if is_new and room is not None else room
                done.append(cell)
                if is_new:
                    print(f"{strategy} {seed} {budget}: {cell.dice:.3f} {cell.families}", flush=True)
    found = summary(done)
    base = laboratory.validate(laboratory.network())
    (args.folder / "result.json").write_text(json.dumps({"base": base, **found}, indent=1))
    draw_curves(found, base["all"], args.picture)
    report("annotator", steps=args.steps, seeds=args.seeds, base=round(base["all"], 4), **found)


if __name__ == "__main__":
    main()
