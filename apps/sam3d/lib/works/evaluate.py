"""One labelled case of an evaluation by clicks, as an order and as what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from lib.cluster.carrying import Task
from lib.cluster.going_on import carried
from lib.cluster.link import Link
from lib.cluster.orders import Failure, ImageReference, Order, Outcome
from lib.cluster.travelling import Weights
from lib.datasets.labelled_cases import Case, opened_later, with_value
from lib.errors import ClusterError
from lib.evaluation.protocol import Game, Result, evaluate_case
from lib.interactive.predictor import Predictor
from lib.learning.cases import Case as FilePair
from lib.settings import Settings

NAME = "evaluate"


def evaluate_order(case: Case, root: Path, game: Game, max_targets: int, settings: Settings) -> Order:
    """The order of a case whose files lie below `root`; ClusterError for one whose do not."""
    if case.files is None or not all(path.resolve().is_relative_to(root) for path in case.files):
        raise ClusterError(f"{case.name} does not lie below {root}, where workers look: name a folder that holds all")
    image, label = (path.resolve().relative_to(root).as_posix() for path in case.files)
    asked: dict[str, Any] = {
        "name": case.name,
        "label": label,
        "value": case.value,
        "label_names": {str(value): name for value, name in case.label_names.items()},
        "game": asdict(game),
        "max_targets": max_targets,
        "is_named_intensity": settings.intensity is not None,
        "precision": settings.precision,
    }
    return Order(NAME, sha256(f"{image} {label} {case.value}".encode()).hexdigest(), ImageReference(image), asked)


def evaluate(task: Task) -> Outcome:
    """Play one case; its results (`lib.evaluation.protocol.Result`), and sentences about what was left out."""
    asked, (_, card), place = task.order.settings, task.network(), task.place
    assert task.order.image is not None, "a case has an image"
    names = {int(value): name for value, name in asked["label_names"].items()}
    files = place.path_of(task.order.image.path), place.path_of(asked["label"])
    case = opened_later(FilePair(asked["name"], *files, names))
    if asked["value"] is not None:
        case = with_value(case, asked["value"])
    settings = Settings(intensity=card.intensity if asked["is_named_intensity"] else None, precision=asked["precision"])
    game = Game(**asked["game"])
    return list(evaluate_case(task.predictor(settings), case, game, asked["max_targets"]))


def evaluate_together(
    link: Link,
    settings: Settings,
    predictor: Callable[[], Predictor],
    cases: Iterable[Case],
    root: Path,
    game: Game,
    max_targets: int,
) -> Iterator[tuple[int, Result | str]]:
    """What `evaluate` comes to, with the number of the case, in the order in which cases are done. `predictor` is asked
    for where no worker is there."""
    listed = list(cases)
    orders = [evaluate_order(case, root, game, max_targets, settings) for case in listed]
    weights: list[Weights] = []

    def sent() -> Weights:
        if not weights:
            weights.append(Weights.named(settings))
        return weights[0]

    stream = carried(
        range(len(listed)),
        lambda number: orders[number],
        lambda number: list(evaluate_case(predictor(), listed[number], game, max_targets)),
        link,
        sent,
    )
    for number, outcome in stream:
        if isinstance(outcome, Failure):
            yield number, f"{listed[number].name} was left out: {outcome.sentence}"
        else:
            yield from ((number, found) for found in outcome)
