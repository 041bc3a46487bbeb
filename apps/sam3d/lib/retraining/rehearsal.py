"""Fine-tuning without forgetting: what is annotated in turn with what is made up.

A few hundred samples of a handful of cases make a network better at these and worse at all else. Going over what it
knew while it learns something new (rehearsal, Robins 1995) keeps both; the gate measures both (docs/decisions/0014).
"""

from __future__ import annotations

from lib.learning.made_volumes import make_pools
from lib.learning.pools import Mixture, Pool

# How often a sample is of the annotated cases, of phantoms and of plain objects.
SHARES = (0.5, 0.25, 0.25)


def rehearse(own: Pool, seed: int) -> Mixture:
    """The annotated cases, and phantoms and plain objects that the seed decides."""
    return Mixture([own, *make_pools(seed)], SHARES)
