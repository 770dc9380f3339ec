"""Errors that a person can act on."""


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


class MissingExtraError(QuadloomError):
    """A package of an optional extra is not installed."""

    def __init__(self, *, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed", remedy=f"install it with: pip install 'quadloom[{extra}]'"
        )


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
