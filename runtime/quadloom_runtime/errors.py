"""Errors that a person can act on."""

import errno
from pathlib import Path
from typing import Any

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class QuadloomError(Exception):
    """A failure whose message names the cause, the offending value and the remedy.

    Args:
        cause: what is wrong, with the value that is wrong in it.
        remedy: what the reader can do about it.
    """

    def __init__(self, cause: str, *, remedy: str) -> None:
        super().__init__(f"{cause}\n  remedy: {remedy}")
        self.cause = cause
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as it is: by default the constructor would be called again with the message alone, and fail."""
        return QuadloomError.__new__, (type(self), *self.args), self.__dict__


class MissingExtraError(QuadloomError):
    """A package of an optional extra is not installed."""

    def __init__(self, *, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed", remedy=f"install it with: pip install 'quadloom[{extra}]'"
        )


class TrainingDivergedError(QuadloomError):
    """A loss or a gradient is no longer a number.

    Args:
        what: which, of which step.
    """

    def __init__(self, what: str, value: float) -> None:
        super().__init__(f"training diverged: {what} is {value}", remedy="lower the learning rate or clip_norm")


class StorageError(QuadloomError):
    """A file cannot be written or read: the disk is full, read-only or broken.

    Args:
        path: the file or folder.
        error: what the system said.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        if error.errno in DISK_FULL:
            remedy = (
                "free space there, then start again or wait for the next attempt; nothing that was finished is lost"
            )
        elif error.errno in NOT_WRITABLE:
            remedy = "name a folder that this user can write, or make it writable"
        else:
            remedy = "check the path, and the disk behind it"
        super().__init__(f"{path} cannot be used: {error.strerror or error}", remedy=remedy)


class StepOutOfMemoryError(QuadloomError):
    """A training step needed more memory than the device may use.

    Args:
        member: the member that was running, e.g. ``d06-q00``.
        limit_bytes: the hard limit that was hit; None when the machine itself ran out.
        detail: the engine's own message.
    """

    def __init__(self, *, member: str, limit_bytes: int | None, detail: str) -> None:
        limit = "the machine's memory" if limit_bytes is None else f"the limit of {limit_bytes / 1e6:.1f} MB"
        super().__init__(
            f"out of memory: a step of member {member} does not fit {limit} ({detail})",
            remedy="assign a member with a smaller depth or more quantized layers, or raise the memory limit",
        )
        self.member = member
        self.limit_bytes = limit_bytes
        self.detail = detail
