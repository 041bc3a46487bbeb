"""Whether a new version may be served: measured beside the served one, on the same patches with the same clicks.

Three questions (docs/decisions/0010): is it better on the cases kept aside, by a margin and without giving up a label;
does it still find what everybody can see, on reference patches whose truth is known; and does it need the image, or
would it say the same of another one. The last two catch labels that do not belong to their images, for which the first
is measured with the same false labels that were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.learning.simulated_user import SimulatedUser
from lib.learning.training import Clicks, decode, margins, prior_of
from lib.network.sam3d import Sam3D
from lib.random_streams import RandomStream, generator
from lib.synthesis.patches import training_patch

N_CLICKS = 5
REFERENCE_PATCHES = 8
# What learning a new kind of object may cost on the reference patches; poisoned labels cost several times as much.
MAX_REFERENCE_DROP = 0.08
# Below this the old version knows nothing of the reference patches that could be lost.
LEAST_REFERENCE = 0.4
# What Dice falls by when the image is exchanged, at least, if a version looks at images at all.
LEAST_NEED = 0.03
# What a version may gain on exchanged images before it is asked whether the labels belong to theirs. Learning from good
# labels, versions lost there 1.2 to 1.7 times what they gained, or gained as much where objects are large and round;
# from shuffled ones, they gained 0.4 to 1.9 times. Where the evidence is thin the answer tells little, and it may be
# half of the gain more.
NOISE, MOST_IF_THIN = 0.01, 0.5

CLICK_SEED = 20


@dataclass(frozen=True)
class Patch:
    """A patch and target (P, P, P) float32 to measure on, and whose they are."""

    patch: NDArray[np.float32]
    target: NDArray[np.float32]
    label: str
    case: str


@dataclass(frozen=True)
class Measured:
    """Dice on one patch after each of the clicks."""

    case: str
    label: str
    dices: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """What a version reaches on a set of patches."""

    patches: tuple[Measured, ...]

    @property
    def by_label(self) -> dict[str, float]:
        """Mean Dice over patches and clicks, for each label."""
        labels = sorted({found.label for found in self.patches})
        return {name: fmean(fmean(p.dices) for p in self.patches if p.label == name) for name in labels}

    @property
    def mean(self) -> float:
        """The mean over labels, so that a rare one counts as much as a common one."""
        return fmean(self.by_label.values())

    def as_json(self) -> dict[str, Any]:
        """Dice after each click for each case and label, means over its patches."""
        keys = sorted({(p.case, p.label) for p in self.patches})
        rows = {key: np.mean([p.dices for p in self.patches if (p.case, p.label) == key], axis=0) for key in keys}
        return {
            "mean": round(self.mean, 4),
            "by_label": {name: round(value, 4) for name, value in self.by_label.items()},
            "clicks": [
                {"case": case, "label": label, "dices": [round(float(d), 4) for d in dices]}
                for (case, label), dices in rows.items()
            ],
        }


@dataclass(frozen=True)
class Evidence:
    """All that is known of one version."""

    validation: Scores
    reference: Scores
    # The validation targets, each on the image of another.
    exchanged: Scores


@dataclass(frozen=True)
class Limits:
    """What a new version must gain and may lose."""

    margin: float = 0.01
    max_label_drop: float = 0.05
    is_trusting: bool = False


@dataclass(frozen=True)
class Decision:
    """Whether the new version is served, and why or why not."""

    is_better: bool
    sentence: str


def decide(
    before: Evidence,
    after: Evidence,
    limits: Limits,
    is_thin: bool = False,
    do_labels_belong: Callable[[], bool] = lambda: False,
) -> Decision:
    """Compare a new version with the served one. Who learns that objects are large and round gains on exchanged images
    too; then `do_labels_belong` is asked whether the labels are known to be those of their images."""
    old, new = before.validation.mean, after.validation.mean
    drops = {name: before.validation.by_label[name] - score for name, score in after.validation.by_label.items()}
    worst = max(drops, key=lambda name: drops[name])
    lost = before.reference.mean - after.reference.mean
    need = after.validation.mean - after.exchanged.mean
    figures = f"mean Dice over clicks 1 to {N_CLICKS} {old:.3f} before, {new:.3f} after"
    objections = []
    if not new >= old + limits.margin:
        objections.append(f"the gain is not the {limits.margin:g} asked for")
    if drops[worst] > limits.max_label_drop:
        objections.append(f"{worst} loses {drops[worst]:.3f}, more than {limits.max_label_drop:g}")
    if not limits.is_trusting:
        if before.reference.mean >= LEAST_REFERENCE and lost > MAX_REFERENCE_DROP:
            objections.append(
                f"it loses {lost:.3f} on reference patches, as labels unlike what the images show make it"
            )
        gained = after.exchanged.mean - before.exchanged.mean
        is_suspect = gained > NOISE + (MOST_IF_THIN * (new - old) if is_thin else 0)
        if need < LEAST_NEED or (is_suspect and not do_labels_belong()):
            objections.append(
                f"with images exchanged it goes from {before.exchanged.mean:.3f} to {after.exchanged.mean:.3f}, so the "
                "labels seem to belong to other images"
            )
    thin = "; the evidence is thin, for no case could be kept aside" if is_thin else ""
    if objections:
        return Decision(False, f"not published: {figures}; {'; '.join(objections)}{thin}")
    return Decision(True, f"published: {figures}{thin}")


def gather_evidence(
    network: Sam3D,
    patches: Sequence[Patch],
    reference: Sequence[Patch],
    has_background_clicks: bool,
    strangers: Sequence[Patch] = (),
) -> Evidence:
    """Measure a version. Where it was never taught what background clicks mean, they are not given to it. `strangers`,
    else the reference patches, lend their images to targets of one case alone (see `exchanged`)."""
    mixed = exchanged(patches, strangers or reference)
    return Evidence(*(measure(network, each, has_background_clicks) for each in (patches, reference, mixed)))


@torch.inference_mode()
def measure(
    network: Sam3D, patches: Iterable[Patch], has_background_clicks: bool = True, n_clicks: int = N_CLICKS
) -> Scores:
    """Dice after each of `n_clicks` simulated clicks on each patch: the same clicks for the same answers."""
    device = next(network.parameters()).device
    found = []
    for number, each in enumerate(patches):
        rng = np.random.default_rng([CLICK_SEED, number])
        embedding = network.encode(torch.from_numpy(each.patch)[None, None].to(device))
        user, dices = SimulatedUser(each.target > 0, rng), []
        for click in range(n_clicks):
            if click:
                user.correct()
            clicks = Clicks.of([user])
            asked = clicks if has_background_clicks else _foreground(clicks)
            logits = decode(network, embedding, asked, prior_of(network, [user]))
            user.look(margins(logits)[0])
            dices.append(user.dice)
        found.append(Measured(each.case, each.label, tuple(dices)))
    return Scores(tuple(found))


def exchanged(patches: Sequence[Patch], strangers: Sequence[Patch] = ()) -> list[Patch]:
    """Every target on the image of another patch: of the next one of another case, else of one of the strangers, else
    of the next one at all. Patches of one case may show the same lesion, so that exchanging them would change little.
    """
    mixed = []
    for number, each in enumerate(patches):
        others = [patches[(number + step) % len(patches)] for step in range(1, len(patches))]
        own = [other for other in others if other.case != each.case]
        lent = own or list(strangers[number % len(strangers) :] if strangers else others)
        # A patch all alone is turned about instead.
        image = lent[0].patch if lent else np.ascontiguousarray(np.flip(each.patch, (0, 1, 2)))
        mixed.append(replace(each, patch=image))
    return mixed


def reference_patches(size: int, count: int = REFERENCE_PATCHES) -> list[Patch]:
    """Synthetic patches with a target that stands out, always the same ones."""
    made = [training_patch(generator(RandomStream.REFERENCE_PATCH, number), size) for number in range(count)]
    return [
        Patch(np.asarray(patch, np.float32), np.asarray(target, np.float32), "reference", f"reference {number}")
        for number, (patch, target) in enumerate(made)
    ]


def _foreground(clicks: Clicks) -> Clicks:
    """The foreground clicks of a batch of one."""
    kept: Tensor = clicks.labels[0] == 1
    return Clicks(clicks.coords[:, kept], clicks.labels[:, kept])


def figures(before: Evidence, after: Evidence, decision: Decision) -> Mapping[str, Any]:
    """What a version's card tells of its measurement."""
    return {
        "is_published": decision.is_better,
        "reason": decision.sentence,
        "before": before.validation.as_json(),
        "after": after.validation.as_json(),
        "reference": [round(before.reference.mean, 4), round(after.reference.mean, 4)],
        "exchanged": [round(before.exchanged.mean, 4), round(after.exchanged.mean, 4)],
    }
