"""How very many clicks are taken: one after another, but for the first ones, which count together."""

from __future__ import annotations

from math import ceil

# Of more clicks than this the first ones count together, half as many at a time, so that which ones they are does not
# change with every click.
LONGEST_CHAIN = 64


def counted_together(n_clicks: int) -> int:
    """How many of the first clicks count together, so that no more than LONGEST_CHAIN follow one by one."""
    block = LONGEST_CHAIN // 2
    return block * ceil(max(0, n_clicks - LONGEST_CHAIN) / block)
