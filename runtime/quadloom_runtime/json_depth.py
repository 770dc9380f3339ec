"""How deep untrusted JSON nests, found without parsing it: a parser would recurse as deep as it is told to."""

import re

# A string is taken whole, also one that does not end, so that the scan is linear whatever is sent.
STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def is_deeper_than(content: bytes, depth: int) -> bool:
    """Whether arrays and objects nest deeper than `depth`; ``[]`` has depth 1. `content` need not be valid JSON."""
    open_brackets = 0
    for found in STRING_OR_BRACKET.finditer(content):
        first = content[found.start()]
        if first in b"[{":
            open_brackets += 1
            if open_brackets > depth:
                return True
        elif first in b"]}":
            open_brackets -= 1
    return False
