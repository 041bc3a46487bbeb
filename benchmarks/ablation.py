"""What a part of the trained network is worth to clicks: the same weights with one part taken away.

    python benchmarks/ablation.py --data DIR                # *_image.nii.gz beside *_label.nii.gz
    python benchmarks/ablation.py --phantoms 20 --without prior encoder

`whole` is the network as it is served. `prior`: each patch starts from nothing in place of the mask so far. `fine` and
`coarse`: only the coarsest patch of the chain, or only the finest. `encoder`: the decoder gets the encoder's features
of an empty patch, and image and clicks as ever. The weights were trained with all of them, so what a training without a
part would come to is not said. Prints one line of JSON: mean Dice after 1, 3 and 5 clicks without each part, and the
mean number of patches of a first click.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from support.report import report
from torch import Tensor, nn

from lib.datasets.labelled_cases import Case, cases_in, phantom_cases
from lib.evaluation.protocol import Result, evaluate
from lib.interactive import chain
from lib.interactive.patches import spacings
from lib.interactive.predictor import Predictor
from lib.network.devices import device_named
from lib.network.fast.choice import for_clicks
from lib.network.sam3d import Embedding
from lib.settings import Settings
from lib.weights.checkpoints import open_network

CLICKS = (1, 3, 5)
MOST_TARGETS = 20


class WithoutPrior(nn.Module):
    """The network, told nothing of the mask so far."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.settings, self.encode = network, network.settings, network.encode

    def decode(self, embedding: Embedding, coords: Tensor, labels: Tensor, prior: Tensor | None = None) -> Tensor:
        return self.network.decode(embedding, coords, labels)


class WithoutEncoder(nn.Module):
    """The network, with the features of an empty patch in place of each patch's own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.settings, self.decode = network, network.settings, network.decode

    def encode(self, patch: Tensor) -> Embedding:
        empty, own = self.network.encode(torch.zeros_like(patch)), self.network.encode(patch)
        return Embedding(empty.feature, empty.fusion, own.image)


@contextmanager
def cut_chain(which: slice) -> Iterator[None]:
    """Only some of a chain's spacings."""
    with mock.patch.object(chain, "spacings", lambda volume, card: spacings(volume, card)[which]):
        yield


PARTS: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[], AbstractContextManager[object]]]] = {
    "whole": (lambda network: network, nullcontext),
    "prior": (WithoutPrior, nullcontext),
    "coarse": (lambda network: network, lambda: cut_chain(slice(-1, None))),
    "fine": (lambda network: network, lambda: cut_chain(slice(None, 1))),
    "encoder": (WithoutEncoder, nullcontext),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="cases to click on")
    source.add_argument("--phantoms", type=int, metavar="N", help="so many held-out phantoms instead")
    parser.add_argument("--without", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="parts (all)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights in place of the demo model's")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(labels=("object",), checkpoint=args.checkpoint)
    cases = list(phantom_cases(args.phantoms, "ct") if args.phantoms else cases_in(args.data))
    rows = {name: measure(settings, cases, name) for name in args.without}
    report("ablation", cases=len(cases), clicks=CLICKS, **rows)


def measure(settings: Settings, cases: Iterable[Case], name: str) -> dict[str, object]:
    """Dice after CLICKS with one of PARTS taken away, and patches of a first click."""
    without, changed = PARTS[name]
    network, card = open_network(settings)
    device = device_named(settings.device)
    fast = for_clicks(network.to(device).eval(), settings.precision, device)
    predictor = Predictor(without(fast), card, settings, device)
    with changed():
        outcomes = evaluate(predictor, cases, max(CLICKS), MOST_TARGETS)
        results = [each for each in outcomes if isinstance(each, Result)]
    dices = [round(float(np.mean([each.dices[count - 1] for each in results])), 3) for count in CLICKS]
    patches = float(np.mean([each.rounds[0].patches for each in results]))
    return {"targets": len(results), "dice": dices, "patches": round(patches, 1)}


if __name__ == "__main__":
    main()
