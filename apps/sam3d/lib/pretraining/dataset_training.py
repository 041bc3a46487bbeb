"""Training on a set of labelled cases, put together: the data, who trains, by which recipe and from which weights.

A run's folder holds what was found in the cases (`cases.json`), the split (`splits.json`), the state to go on from and
the log. The same order in the same folder goes on where it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from lib.datasets.inspection import inspected
from lib.datasets.known import KnownDataset
from lib.datasets.listing import labelled_cases, without_images
from lib.datasets.splitting import FILE as SPLIT_FILE
from lib.datasets.splitting import DatasetSplit, kept_split, new_split, write_split
from lib.datasets.statistics import intensity_for
from lib.errors import TrainingError
from lib.learning.augmentation import Augmentation
from lib.learning.case_cache import CaseCache
from lib.learning.cases import LIGHT, Case, CaseStore
from lib.learning.dataset_plan import DatasetPlan
from lib.learning.distributed import Team
from lib.learning.recipes import (
    INTERACTIVE,
    PUBLISHED,
    PUBLISHED_EPOCHS,
    PUBLISHED_LEARNING_RATE,
    TUNE_ADAPTERS,
    TUNE_ALL,
    TUNE_PUBLISHED,
)
from lib.learning.resumable import learn
from lib.learning.teaching import InteractiveTeaching, Teaching
from lib.learning.training import ClickPlan
from lib.memory import WAY_OUT, Thrift, check_memory, is_out_of_memory
from lib.network.build import build_sam3d
from lib.network.sam3d import Sam3D
from lib.network.weights import Card
from lib.pretraining.dataset_learner import DatasetLearner
from lib.published.augmentation import CropRecipe
from lib.published.teaching import PublishedTeaching
from lib.published.volumes import ResampledCases
from lib.settings import VARIANTS, Intensity, Settings
from lib.weights.checkpoints import open_network
from lib.weights.fetch import sha256_of

logger = logging.getLogger(__name__)

CACHE = "prepared"
MAX_VALUES = 255
INTERACTIVE_STEPS, INTERACTIVE_STRETCH = 3000, 50
INTERACTIVE_BATCH = 4
# Where every parameter learns, as in pre-training on synthetic patches.
ALL_LEARNING_RATE = 2e-3
# Processes that prepare patches for a GPU; a CPU is busy enough.
WORKERS = 4


@dataclass(frozen=True)
class DatasetOrder:
    """What somebody asked for; None where the recipe decides."""

    dataset: KnownDataset
    data: Path
    folder: Path
    recipe: str = INTERACTIVE
    variant: str = "tiny"
    checkpoint: Path | None = None
    sam_checkpoint: Path | None = None
    splits: Path | None = None
    preset: str | None = None
    tune: str | None = None
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    rounds: int = 3
    seed: int = 0
    spacing_mm: float = 1.0
    device: str = "cpu"
    has_bfloat16: bool = False
    is_checkpointed: bool = False
    cache_gib: float = 64.0
    version: str = "1"


@dataclass(frozen=True)
class Prepared:
    """A set that was looked through: cases by name, who trains, how voxels are normalised and by whose word."""

    cases: Mapping[str, Case]
    split: DatasetSplit
    intensity: Intensity
    intensity_source: str
    target_name: str


def prepare(order: DatasetOrder) -> Prepared:
    """Look through the data and write down the split. Raises a Sam3DError for whatever cannot be trained on."""
    listing = labelled_cases(order.data)
    missing = without_images(order.data) if order.data.is_dir() else []
    dataset = order.dataset
    names = dict(listing.value_names or dataset.value_names)
    facts = inspected(listing.cases, dataset.target, names, missing, order.folder)
    path = order.folder / SPLIT_FILE
    given = order.splits or (path if path.exists() else None)
    if given is not None:
        split = kept_split(given, facts)
    else:
        split = new_split(facts, listing.parts, dataset.published_counts, order.seed)
    write_split(split, path)
    preset = order.preset or dataset.preset
    intensity, source = intensity_for(preset, [facts[name] for name in split.training])
    # A label without names still has values.
    values = names or {value: f"label {value}" for value in range(1, MAX_VALUES)}
    values = {value: name for value, name in values.items() if value}
    cases = {case.id: replace(case, value_names=values) for case in listing.cases}
    prepared = Prepared(cases, split, intensity, source, values.get(dataset.target, f"label {dataset.target}"))
    logger.info("%d cases: %s (%s)", len(cases), split.counts(), split.rule)
    logger.info("voxels: %s", source)
    return prepared


def train(order: DatasetOrder, prepared: Prepared, team: Team) -> tuple[Sam3D, Card]:
    """The network at its lowest validation loss, and its papers. Raises TrainingError where memory runs out."""
    device = torch.device(order.device)
    thrift = Thrift(order.is_checkpointed, order.has_bfloat16)
    check_memory(order.variant, VARIANTS[order.variant], thrift, device)
    plan = plan_of(order, prepared)
    network, parent = beginning(order)
    card = _card(order, prepared, plan, network, parent)
    teaching = _teaching(order, prepared, plan, card)
    learner = DatasetLearner(
        plan, network.to(device).train(), teaching, team, n_workers=0 if device.type == "cpu" else 4
    )
    try:
        learn(learner, order.folder, team)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise TrainingError(f"memory ran out while training {order.variant}: {WAY_OUT}") from error
        raise
    figures = {"validation_loss": round(learner.best_loss, 6), "cases": prepared.split.counts()}
    return learner.best_network(), replace(card, figures=figures)


def plan_of(order: DatasetOrder, prepared: Prepared) -> DatasetPlan:
    """The recipe's numbers, with those that the order names in place of its own."""
    n_training = len(prepared.split.training)
    content = json.dumps([asdict(prepared.split), asdict(prepared.intensity), order.dataset.target])
    data = sha256(content.encode()).hexdigest()
    tune = order.tune or _usual_tune(order)
    is_published = order.recipe == PUBLISHED
    batch = order.batch or (1 if is_published else INTERACTIVE_BATCH)
    per_epoch = max(1, n_training // batch)
    steps = order.steps or (PUBLISHED_EPOCHS * per_epoch if is_published else INTERACTIVE_STEPS)
    plan = DatasetPlan(
        recipe=order.recipe,
        steps=steps,
        steps_per_epoch=per_epoch if is_published else min(INTERACTIVE_STRETCH, steps),
        batch_size=batch,
        learning_rate=order.learning_rate or (ALL_LEARNING_RATE if tune == TUNE_ALL else PUBLISHED_LEARNING_RATE),
        tune=tune,
        seed=order.seed,
        has_bfloat16=order.has_bfloat16,
        is_checkpointed=order.is_checkpointed,
        data=data,
    )
    if is_published:
        return plan
    return replace(
        plan,
        warmup_steps=min(100, steps // 10),
        weight_decay=0.01 if tune == TUNE_ALL else 0.0,
        average_decay=0.998,
        clicks=ClickPlan(order.rounds, automatic_share=0.05, random_share=0.4, has_varied_rounds=True),
    )


def beginning(order: DatasetOrder) -> tuple[Sam3D, str | None]:
    """The network to begin with and the hash of the file that it came from; random weights come from the seed."""
    named = order.checkpoint or order.sam_checkpoint
    if named is None:
        return build_sam3d(VARIANTS[order.variant], seed=order.seed), None
    # What no file brings, an adapter say, is drawn by PyTorch.
    torch.manual_seed(order.seed)
    conf = {"variant": order.variant, "checkpoint": order.checkpoint, "sam_checkpoint": order.sam_checkpoint}
    network, _ = open_network(Settings.from_conf({key: value for key, value in conf.items() if value is not None}))
    if network.settings != VARIANTS[order.variant]:
        raise TrainingError(f"{named.name} is of another variant than {order.variant}: name it with --variant")
    return network, sha256_of(named)


def _usual_tune(order: DatasetOrder) -> str:
    """Random weights must all learn, but for the published recipe, which is what it is."""
    if order.recipe == PUBLISHED:
        return TUNE_PUBLISHED
    return TUNE_ADAPTERS if order.checkpoint or order.sam_checkpoint else TUNE_ALL


def _teaching(order: DatasetOrder, prepared: Prepared, plan: DatasetPlan, card: Card) -> Teaching:
    split, folder, limit = prepared.split, order.folder / CACHE, int(order.cache_gib * 2**30)
    if order.recipe == PUBLISHED:
        dataset = order.dataset
        cases = ResampledCases(prepared.cases, dataset.target, dataset.axes, prepared.intensity, order.spacing_mm)
        crops = CropRecipe(card.network.patch_size, dataset.is_in_plane, not prepared.intensity.is_percentile)
        cache = CaseCache(folder, limit)
        return PublishedTeaching(cases, cache, split.training, split.validation, plan, crops)

    def store(names: list[str], augmentation: Augmentation | None) -> CaseStore:
        chosen = [prepared.cases[name] for name in names]
        labels = (prepared.target_name,)
        return CaseStore(chosen, labels, card, folder, limit, augmentation, is_named_intensity=True)

    return InteractiveTeaching(store(split.training, LIGHT), store(split.validation, None), len(split.validation), plan)


def _card(order: DatasetOrder, prepared: Prepared, plan: DatasetPlan, network: Sam3D, parent: str | None) -> Card:
    is_published = order.recipe == PUBLISHED
    return Card(
        variant=order.variant,
        network=network.settings,
        intensity=prepared.intensity,
        spacing_mm=order.spacing_mm,
        has_antialiasing=not is_published,
        version=order.version,
        is_trained=True,
        # The published recipe tells nothing about a point, unless the network reads what kind it is.
        has_background_clicks=not is_published or network.settings.has_click_maps,
        has_automatic_mode=not is_published,
        description=f"trained on {order.dataset.name}, {prepared.split.counts()}, by {plan}",
        parent_sha256=parent,
    )
