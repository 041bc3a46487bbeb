"""The one function that is sent to workers, by its name. It lies alone, for the scheduler reads its name, too, and need
not load what workers need."""

from __future__ import annotations

from lib.cluster.orders import Outcome


def carry_out(text: str, digest: str = "", data: bytes = b"") -> Outcome:
    """Do what an order says, with the weights of that digest, in a process that takes orders."""
    from lib.cluster.carrying import done

    return done(text, digest, data)
