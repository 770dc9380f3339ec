"""Files that a program wrote for itself and believes only if not a bit of them has changed: content, then SHA-256."""

import hashlib
from pathlib import Path

from quadloom_runtime.crash_points import CrashPoint
from quadloom_runtime.durable_files import write_atomically

SEAL_BYTES = hashlib.sha256().digest_size


def write_sealed(path: Path, content: bytes, *, half_written: CrashPoint | None = None) -> None:
    """Write `content` and its seal, both or neither; see `write_atomically`."""
    write_atomically(path, content, hashlib.sha256(content).digest(), half_written=half_written)


def read_sealed(path: Path) -> bytes | None:
    """The content; None if the file is absent, unreadable or altered."""
    try:
        sealed = path.read_bytes()
    except OSError:
        return None
    content, seal = sealed[:-SEAL_BYTES], sealed[-SEAL_BYTES:]
    return content if hashlib.sha256(content).digest() == seal else None
