"""Half of what was learned, where nobody can see what it is worth elsewhere.

Weights halfway between those before and after fine-tuning keep most of what was learned and more of what was known
(WiSE-FT, Wortsman et al., CVPR 2022, section 4). With cases kept aside the gate sees whether all of it is an
improvement; without, half is the safer bet (docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

SHARE = 0.5


def halfway(known: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors between those of the same names before and after learning."""
    return {name: known[name].lerp(after, SHARE) for name, after in learned.items()}
