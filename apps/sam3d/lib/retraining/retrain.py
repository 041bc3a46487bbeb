"""From annotated cases to a version that is served, or to a sentence that says why not.

Measure what is served; train a copy on the cases that are not kept aside; measure that; publish it if it is better.
Until the very last rename the served version is untouched, so a run may be stopped, killed or starved at any moment.
"""

from __future__ import annotations

import errno
import gc
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.errors import Sam3DError, TrainingError
from lib.learning.case_subjects import AnnotatedCases
from lib.learning.cases import Case, CaseStore
from lib.learning.distributed import Team, run_together
from lib.learning.pools import Mixture
from lib.learning.splits import Split, SplitFile
from lib.learning.training_loop import Epoch
from lib.memory import is_out_of_memory
from lib.network.deltas import as_stored, put_state, tuned_state
from lib.network.devices import device_named
from lib.network.sam3d import Sam3D
from lib.network.weights import Card
from lib.retraining.finetuning import FinetuningPlan, finetune, learn_chains, learn_patches, plan_for
from lib.retraining.gate import (
    LEAST_REFERENCE,
    Decision,
    Evidence,
    Limits,
    Patch,
    decide,
    figures,
    gather_evidence,
    reference_patches,
)
from lib.retraining.matching import match
from lib.retraining.opened_cases import doubtful, open_cases, validation_patches
from lib.retraining.progress import DONE, FAILED, KEEPING, RUNNING, Progress, ProgressFile, bar
from lib.retraining.rehearsal import rehearse
from lib.settings import APP, Settings
from lib.weights.versions import Served, open_served, remove_temporaries

logger = logging.getLogger(__name__)

SPLITS = "splits.json"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Handlers = Callable[[Path], list[Any]]


def no_handlers(_folder: Path) -> list[Any]:
    """For runs that nobody tracks."""
    return []


@dataclass(frozen=True)
class Result:
    """How a run ended. `version` is the one that was kept: served if it `is_published`, else a candidate."""

    version: str
    is_published: bool
    sentence: str
    score_before: float
    score_after: float
    training: tuple[str, ...]
    validation: tuple[str, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    losses: tuple[float, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def retrain(
    settings: Settings,
    cases: Sequence[Case],
    handlers: Handlers = no_handlers,
    on_decision: Callable[[Decision], None] = lambda _: None,
) -> Result:
    """Train on the cases and publish what is better; the only run at a time in the settings' model folder.

    `handlers` makes ignite handlers for a folder of logs. Raises TrainingError, and other errors of lib.errors, with
    one sentence; whatever is raised, the served version stays served and the progress file says what happened.
    """
    file = ProgressFile(settings.model_folder)
    with file.locked():
        remove_temporaries(settings.model_folder)
        known = file.read()
        progress = Progress(RUNNING, "getting ready", scores=known.scores, parent=known.parent)
        run = _Retraining(settings, list(cases), handlers, file, progress)
        try:
            run.tell(epochs=settings.training.max_epochs)
            return run.go(on_decision)
        except (Sam3DError, OSError, MemoryError, RuntimeError) as error:
            foreseen = _as_known(error)
            run.tell_if_possible(state=FAILED, sentence=f"failed, nothing was changed: {foreseen or error}")
            if foreseen is None:
                raise
            raise foreseen from error


class _Retraining:
    """One run, step by step."""

    def __init__(
        self, settings: Settings, cases: list[Case], handlers: Handlers, file: ProgressFile, progress: Progress
    ) -> None:
        self.settings, self.cases, self.handlers, self.file, self.progress = settings, cases, handlers, file, progress
        self.device = device_named(settings.device)
        self.start = time.monotonic()
        self.notes: list[str] = []
        self.losses: list[float] = []

    def tell(self, **changes: Any) -> None:
        """Write down how far the run is."""
        self.progress = replace(self.progress, **changes, seconds=round(time.monotonic() - self.start, 1))
        self.file.write(self.progress)

    def tell_if_possible(self, **changes: Any) -> None:
        """The same at the end of a run that failed, perhaps because nothing can be written."""
        try:
            self.tell(**changes)
        except OSError as error:
            logger.warning("the end of the run could not be written down: %s", error)

    def go(self, on_decision: Callable[[Decision], None]) -> Result:
        served = open_served(self.settings)
        for name in served.store.clean_leftovers():
            logger.info("removed %s, left by a run that was killed", name)
        if self.progress.parent != served.base.sha256:
            self.tell(parent=served.base.sha256, scores={})
        network, card = served.network.to(self.device), served.card
        split, skipped, seen = self._split(card)
        patches = self._patches(split, card)
        reference = reference_patches(card.network.patch_size)
        strangers = self._strangers(split, patches, card)
        self.tell(sentence=f"measuring {served.name}")
        before = gather_evidence(network, patches, reference, card.has_background_clicks, strangers)
        self._score(served.name, before)
        self._say(f"{served.name} reaches {before.validation.mean:.3f} on {_number(split.validation, split.training)}")

        plan = plan_for(self.settings.training, card.variant, self.device)
        plan = replace(plan, has_rehearsal=before.reference.mean >= LEAST_REFERENCE)
        known = tuned_state(network)
        self._train(network, known, split, served, plan)
        learned = as_stored(tuned_state(network), self.settings.training.store_half)
        put_state(network, learned)
        self.tell(sentence="measuring the new version")
        after = gather_evidence(network, patches, reference, True, strangers)
        training = self.settings.training
        limits = Limits(training.publish_margin, training.max_label_drop, training.trust_labels)

        def do_labels_belong() -> bool:
            put_state(network, known)
            belongs = self._do_labels_belong(network, split, card)
            put_state(network, learned)
            return belongs

        decision = decide(before, after, limits, split.is_thin, do_labels_belong)
        on_decision(decision)
        self.tell(sentence=KEEPING)
        name = self._keep(served, network, decision, before, after)
        self._score(name, after)
        sentence = f"{name} {decision.sentence}"
        self.tell(state=DONE, sentence=sentence, epoch=plan.epochs)
        self._say(sentence)
        return Result(
            version=name,
            is_published=decision.is_better,
            sentence=sentence,
            score_before=before.validation.mean,
            score_after=after.validation.mean,
            training=tuple(split.training),
            validation=tuple(split.validation),
            skipped=skipped,
            notes=(*served.notes, *seen, *self.notes),
            losses=tuple(self.losses),
            seconds=round(time.monotonic() - self.start, 1),
        )

    def _split(self, card: Card) -> tuple[Split, dict[str, str], list[str]]:
        """Which usable cases train and which validate; those that cannot be used, with the reason; and remarks."""
        store = self._store([case.id for case in self.cases], card, augmented=False)
        usable = store.usable()
        doubts = {} if self.settings.training.trust_labels else doubtful(store, usable)
        skipped = {**store.skipped, **doubts}
        notes = [f"{case}: {note}" for case, remarks in store.notes.items() for note in remarks]
        for case, reason in skipped.items():
            self._say(f"left out {case}: {reason}")
        usable = [case for case in usable if case not in doubts]
        if not usable:
            reasons = "; ".join(f"{case}: {reason}" for case, reason in list(skipped.items())[:5])
            raise TrainingError(f"there is no case to train on: {reasons or 'annotate an image and submit its label'}")
        split = SplitFile(self.settings.model_folder / SPLITS).assign(usable)
        if not split.training:
            raise TrainingError(
                f"all {len(split.validation)} usable cases are kept aside to validate on: annotate at least one more"
            )
        return split, skipped, notes

    def _patches(self, split: Split, card: Card) -> list[Patch]:
        """What versions are measured on: every label of the cases kept aside. A label that none of them has would be
        anybody's to ruin, so it is measured where it is trained, and that is said."""
        if split.is_thin:
            return validation_patches(self._store(split.training, card, augmented=False))
        patches = validation_patches(self._store(split.validation, card, augmented=False))
        shown = {patch.label for patch in patches}
        others = validation_patches(self._store(split.training, card, augmented=False), without=shown)
        if others:
            names = ", ".join(sorted({patch.label for patch in others}))
            self.notes.append(f"no case kept aside has {names}, which is measured on cases that are trained on")
            self._say(self.notes[-1])
        return [*patches, *others]

    def _strangers(self, split: Split, patches: Sequence[Patch], card: Card) -> list[Patch]:
        """Patches whose images are lent to targets of a case that is measured alone: images of its own kind, which
        synthetic ones are not."""
        measured = {patch.case for patch in patches}
        if len(measured) > 1:
            return []
        return validation_patches(self._store([c for c in split.training if c not in measured], card, augmented=False))

    def _do_labels_belong(self, network: Sam3D, split: Split, card: Card) -> bool:
        """Whether the labels suit their own images better than others', for the version that was served."""
        self.tell(sentence="asking whether labels belong to their images")
        cases = [*split.training, *split.validation]
        matching = match(network, self._store(cases, card, augmented=False), cases, card.has_background_clicks)
        self.notes.append(str(matching))
        self._say(self.notes[-1])
        return matching.do_labels_belong

    def _store(self, ids: Sequence[str], card: Card, augmented: bool) -> CaseStore:
        return open_cases(self.settings, [case for case in self.cases if case.id in set(ids)], card, augmented)

    def _train(
        self, network: Sam3D, known: dict[str, Tensor], split: Split, served: Served, plan: FinetuningPlan
    ) -> None:
        """Train in place; where memory runs out, once more from what was `known` with a smaller plan."""
        try:
            return self._attempt(network, split, served, plan)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = plan.smaller()
            if smaller is None:
                raise
            reason = str(error).splitlines()[0][:200]
        # Outside of the handler, for the error holds on to all tensors of the step that failed.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        plan, how = smaller
        self.notes.append(f"memory ran out ({reason}), so the run began again with less of it, {how}")
        self._say(self.notes[-1])
        put_state(network, known)
        self.losses.clear()
        self._attempt(network, split, served, plan)

    def _attempt(self, network: Sam3D, split: Split, served: Served, plan: FinetuningPlan) -> None:
        logs = self.settings.model_folder / "logs" / time.strftime("%Y%m%d_%H%M%S")
        cases = [case for case in self.cases if case.id in set(split.training)]
        job = _Job(self.settings, cases, served.card, plan, logs, self.progress, self.handlers)
        size = torch.cuda.device_count() if self.device.type == "cuda" and self.settings.training.multi_gpu else 1
        self.tell(sentence=f"training on {len(cases)} cases", epoch=0, epochs=plan.epochs)
        if size < 2:
            train_member(Team(), job, network, self._on_epoch)
        else:
            plan = replace(plan, batch_size=max(plan.batch_size, size))
            put_state(network, _trained_together(replace(job, plan=plan), size))

    def _on_epoch(self, epoch: Epoch) -> None:
        self.losses.append(epoch.loss)
        self.tell(sentence="training", epoch=epoch.number, loss=epoch.loss, dice=epoch.dice)
        epochs = self.progress.epochs
        self._say(
            f"epoch {epoch.number:3} of {epochs} {bar(epoch.number, epochs)} "
            f"loss {epoch.loss:.3f}, dice {epoch.dice:.3f}, {self.progress.seconds:.0f} s"
        )

    def _keep(self, served: Served, network: Sam3D, decision: Decision, before: Evidence, after: Evidence) -> str:
        training = self.settings.training
        card = replace(
            served.card,
            is_trained=True,
            has_background_clicks=True,
            has_automatic_mode=True,
            description=f"fine-tuned on annotated cases, from {served.card.version}",
            figures={"gate": dict(figures(before, after, decision))},
        )
        keep = served.store.publish if decision.is_better else served.store.keep_candidate
        return keep(network, card, training.versions_kept, training.store_half)

    def _score(self, name: str, evidence: Evidence) -> None:
        self.tell(scores={**self.progress.scores, name: round(evidence.validation.mean, 4)})

    def _say(self, sentence: str) -> None:
        logger.info("%s", sentence)


@dataclass(frozen=True)
class _Job:
    """What each process of a run needs to know; travels to other processes by pickling."""

    settings: Settings
    cases: list[Case]
    card: Card
    plan: FinetuningPlan
    logs: Path
    progress: Progress
    handlers: Handlers


def train_member(team: Team, job: _Job, network: Sam3D, on_epoch: Callable[[Epoch], None]) -> None:
    """Fine-tune `network` in place as one of a team."""
    plan, store = job.plan, open_cases(job.settings, job.cases, job.card, augmented=True)
    if network.settings.has_prior:
        own = AnnotatedCases(store, sought=job.settings.labels[0])
        learn = learn_chains(network, rehearse(own, plan.seed) if plan.has_rehearsal else Mixture([own], [1.0]), plan)
    else:
        learn = learn_patches(network, partial(store.samples, plan.seed), plan)
    handlers = job.handlers(job.logs) if team.is_leader else []
    finetune(network, learn, plan, on_epoch, tuple(handlers), team)


def _trained_together(job: _Job, size: int) -> dict[str, Tensor]:
    """The tuned tensors after training on `size` GPUs, each with a process of its own."""
    app = str(APP)
    if app not in sys.path:
        sys.path.insert(0, app)  # the server takes it off, and a new process inherits the path
    result = job.settings.model_folder / ".together.safetensors"
    try:
        run_together(size, "nccl", _gpu_member, job, result)
        return load_file(result)
    finally:
        result.unlink(missing_ok=True)


def _gpu_member(team: Team, job: _Job, result: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    settings = replace(job.settings, device=f"cuda:{team.local_rank}")
    reporter = _Retraining(settings, job.cases, no_handlers, ProgressFile(settings.model_folder), job.progress)
    network = open_served(settings).network.to(reporter.device)
    on_epoch = reporter._on_epoch if team.is_leader else (lambda _: None)
    train_member(team, replace(job, settings=settings), network, on_epoch)
    if team.is_leader:
        save_file({name: tensor.contiguous() for name, tensor in tuned_state(network).items()}, result)


def _as_known(error: Exception) -> Sam3DError | None:
    """What a machine runs out of, as an error with a sentence; None for an error that nobody foresaw."""
    if isinstance(error, Sam3DError):
        return error
    if is_out_of_memory(error):
        return TrainingError(
            "memory ran out, and no smaller run is left to try: use a smaller variant, or stop what else runs here"
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return TrainingError(f"the disk is full ({error.strerror}): make room where the model folder is")
    return None


def _number(validation: Sequence[str], training: Sequence[str]) -> str:
    if validation:
        return f"{len(validation)} cases kept aside"
    return f"the {len(training)} cases that it will be trained on, for there are too few to keep one aside"
