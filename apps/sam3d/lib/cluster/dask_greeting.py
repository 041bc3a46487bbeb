"""The first question to a scheduler: whether it is one of ours, and runs the code that is run here."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed import rpc
from distributed.security import Security

from lib.cluster.dask_security import security_of
from lib.cluster.identity import difference, identity
from lib.cluster.security import Access
from lib.errors import ClusterError


async def greet(access: Access, role: str, limit_s: float) -> dict[str, Any]:
    """What a scheduler says of itself to a `worker` or a `client`. OSError or TimeoutError where nothing answers within
    `limit_s`, also where something listens and says nothing; ClusterError where it is another program or runs other
    code."""
    return await asyncio.wait_for(_greet(access, role, limit_s), limit_s)


async def _greet(access: Access, role: str, limit_s: float) -> dict[str, Any]:
    arguments = (security_of(access) or Security()).get_connection_args(role)
    async with rpc(access.address, connection_args=arguments, timeout=limit_s) as scheduler:
        try:
            said: dict[str, Any] = await scheduler.sam3d()
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise ClusterError(
                f"what answers at {access.address} is no scheduler of ours: start it with `cli.py scheduler`"
            ) from error
    if odd := difference(identity(), said["identity"]):
        raise ClusterError(f"this {role} may not join {access.address}: {odd}; install the same version on both")
    return said
