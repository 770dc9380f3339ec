"""What a device says while it works: a line for people, and a JSON line for programs."""

import json
import time
from pathlib import Path
from typing import IO, Any


class EventLog:
    """Prints events and, if asked to, appends them to a file as JSON lines with a time stamp."""

    def __init__(self, path: Path | None = None, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def say(self, event: str, line: str | None = None, **details: Any) -> None:
        """Record one event; `line` is what people read (None: nothing)."""
        if self._file is not None:
            self._file.write(json.dumps({"time_s": time.time(), "event": event, **details}) + "\n")
            self._file.flush()
        if line is not None and not self._quiet:
            print(line, flush=True)
