"""JSON that came from outside: an object, in UTF-8, of bounded depth, of numbers that are numbers."""

from __future__ import annotations

import json
import math
from typing import Any

from lib.errors import RequestError

# The viewers' requests are four deep.
MAX_DEPTH = 32


def read_object(text: str | bytes, what: str, *, allows_nan: bool = False) -> dict[str, Any]:
    """The object of a text; RequestError, which calls it `what`, for anything else.

    allows_nan: for clicks, of which one that is no voxel is left out while the others count. Never for what is kept.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded) if allows_nan else json.loads(decoded, parse_constant=_refuse, parse_float=_finite)
        # Half a surrogate pair can be read, but neither logged nor sent back.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise RequestError(f"{what} is not text in UTF-8: {str(error)[-80:]}") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"{what} is no JSON: {error.msg} at character {error.pos}") from error
    except NotFiniteError as error:
        raise RequestError(f"{what} holds {error}, which is no number of JSON: leave it away") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{what} is JSON of numbers too long, or of lists too deep, to be read") from error
    if not isinstance(value, dict):
        raise RequestError(f"{what} is {decoded[:40]!r}: it must be a JSON object, as in {{}}")
    if depth_of(value) > MAX_DEPTH:
        raise RequestError(f"{what} is JSON of lists too deep to be read: {MAX_DEPTH} within each other are allowed")
    return value


def finite(value: Any) -> Any:
    """The same value, of JSON, with None for every number that JSON cannot write."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list) else value


def depth_of(value: Any) -> int:
    """How many lists and objects stand within each other; counted without recursion."""
    depth, layer = 0, [value]
    while layer := [each for each in layer if isinstance(each, (dict, list))]:
        depth += 1
        layer = [inner for each in layer for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


class NotFiniteError(ValueError):
    """A number of a text that is NaN, infinite, or too large for a float."""


def _refuse(constant: str) -> Any:
    raise NotFiniteError(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotFiniteError(digits[:20])
    return number
