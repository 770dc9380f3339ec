"""Untrusted JSON, read only if every reader would read the same: bounded, UTF-8, no key twice, finite numbers only."""

import json
import math
from collections import Counter
from typing import Any, NoReturn

from quadloom_runtime.json_depth import is_deeper_than


def parse_strict_json(content: bytes, *, largest_bytes: int, deepest: int) -> Any:
    """The value that `content` holds.

    Args:
        deepest: how deep arrays and objects may nest; ``[]`` has depth 1.

    Raises:
        ValueError: it is too large, too deep, ambiguous or no JSON; the message says which.
    """
    if len(content) > largest_bytes:
        raise ValueError(f"it has more than {largest_bytes} bytes")
    if is_deeper_than(content, deepest):
        raise ValueError(f"it nests deeper than {deepest} levels")
    value = json.loads(
        content.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number
    )
    # A lone surrogate such as \ud800 is no character: some readers refuse it, Python would take it.
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it names {double[:80]!r} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _no_number(text)
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text[:80]}, which is not a finite number")
