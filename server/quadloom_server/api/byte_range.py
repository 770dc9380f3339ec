"""The Range header of one request (RFC 9110, section 14), for a single range."""

import re

from quadloom_server.errors import RefusedRequestError

SINGLE_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


def requested_range(header: str | None, size_bytes: int) -> range | None:
    """The bytes that are asked for, None for all of them.

    A header that is malformed or names several ranges is ignored, as the standard allows.

    Raises:
        RefusedRequestError: 416, the range begins behind the end.
    """
    found = SINGLE_RANGE.fullmatch(header or "")
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:  # the last N bytes
        chosen = range(max(0, size_bytes - int(last)), size_bytes)
    elif last and int(last) < int(first):
        return None
    else:
        chosen = range(int(first), min(size_bytes, int(last) + 1) if last else size_bytes)
    if not chosen:
        raise RefusedRequestError(
            f"the range {header!r} lies outside the blob of {size_bytes} bytes",
            remedy="ask for a range within the blob, or without Range for all of it",
            code="range-not-satisfiable",
            http_status=416,
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
    return chosen
