"""Makes Android's x86-64 libraries loadable by a desktop's JVM: their imports are changed, their code is not."""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent / "desktop"
PROGRAM_HEADER, DYNAMIC_ENTRY = 0x38, 0x10
DYNAMIC: Final = 2
# DT_VERSYM, DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM: Android's symbols have a version that glibc's lack.
VERSION_TAGS: Final = frozenset({0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF})
UNKNOWN_TAG: Final = 0x60FFFF00
"""Loaders pass over what they do not know."""
RENAMED: Final = {b"sysconf": b"sysconB", b"fflush": b"fflusB"}
"""Imports that glibc would answer in another way than Android."""
OF_ANDROID: Final = ("libm.so", "libdl.so", "liblog.so", "libandroid.so")


def make_desktop_libraries(libraries: list[Path], folder: Path) -> None:
    """Write `libraries` with their imports changed, and beside them stand-ins for Android's own."""
    folder.mkdir()
    for each in libraries:
        (folder / each.name).write_bytes(without_versions(each.read_bytes()))
    compiler = shutil.which("gcc")
    assert compiler is not None
    build = [compiler, "-shared", "-fPIC", "-O1", "-w"]
    subprocess.run(
        [*build, HERE / "bionic.c", "-o", folder / "libc.so", "-Wl,-soname,libc.so", "-Wl,--no-as-needed", "-lm"],
        check=True,
    )
    for name in OF_ANDROID:  # what they hold is in glibc, or in the stand-in for libc.so
        empty = [*build, "-x", "c", "/dev/null", "-o", folder / name, f"-Wl,-soname,{name}"]
        subprocess.run(empty, check=True)


def without_versions(library: bytes) -> bytes:
    """The library without versions of symbols, and with imports `RENAMED`."""
    content = bytearray(library)
    (table,) = struct.unpack_from("<Q", content, 0x20)
    (count,) = struct.unpack_from("<H", content, 0x38)
    for header in range(table, table + count * PROGRAM_HEADER, PROGRAM_HEADER):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", content, header)
        if kind != DYNAMIC:
            continue
        for entry in range(offset, offset + size, DYNAMIC_ENTRY):
            (tag,) = struct.unpack_from("<Q", content, entry)
            if tag in VERSION_TAGS:
                struct.pack_into("<Q", content, entry, UNKNOWN_TAG)
    for name, other in RENAMED.items():
        content = content.replace(b"\0" + name + b"\0", b"\0" + other + b"\0")
    return bytes(content)
