"""Sizes as people write them."""

import re

from quadloom_runtime.errors import QuadloomError

FACTORS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def parse_bytes(text: str) -> int:
    """``"300MB"`` -> 300_000_000, ``"1.5GiB"`` -> 1_610_612_736.

    Raises:
        QuadloomError: not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    factor = FACTORS.get(found[2].upper()) if found else None
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise QuadloomError(f"{text!r} is not a size", remedy="write a number and a unit, e.g. 300MB or 1.5GiB")
    return int(float(found[1]) * factor)


def format_bytes(size_bytes: float) -> str:
    """``300_000_000`` -> ``"300.0 MB"``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"
