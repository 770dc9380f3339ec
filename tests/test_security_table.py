"""The table of attacks in docs/security.md is true: each test exists and names the error, each error is one we have."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from quadloom_runtime.contract.wire import ReportResponse

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime", "server", "export")
LEAST_ROWS = 45
BARE = {"closed", "503", "400", "429"}
WHOLE_PROGRAMS = {"test_device_family_key.py", "test_serve_tls.py", "test_device_identity.py"}
"""Tests that see errors only as what a program says."""


class Row(NamedTuple):
    """One row of the table."""

    name: str
    sent: str
    error: str
    test: str

    @property
    def code(self) -> str | None:
        """What stands in code quotes, None where no error is stated."""
        found = re.fullmatch(r"`(.+)`", self.error)
        return found[1] if found else None

    @property
    def file(self) -> Path:
        return ROOT / self.test.partition("::")[0]


def table() -> list[Row]:
    lines = (ROOT / "docs/security.md").read_text().partition("## Bad inputs and attacks")[2].splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    return [Row(*(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])) for line in rows]


ROWS = [row._replace(test=row.test.strip("`")) for row in table()]


@cache
def modules() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


@cache
def error_classes() -> set[str]:
    found = [node.name for module in modules() for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    return {name for name in found if name.endswith("Error")}


@cache
def statuses_of_codes() -> dict[str, set[int]]:
    """HTTP statuses that stand beside a code in one call or, where a helper adds it, in one module."""
    found: dict[str, set[int]] = {}
    for module in modules():
        for node in (*ast.walk(module), module):
            if isinstance(node, ast.Call | ast.Module):
                constants = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                numbers = {each for each in constants if type(each) is int and 400 <= each <= 599}
                for text in (each for each in constants if isinstance(each, str)):
                    if re.fullmatch(r"[a-z]+(-[a-z]+)+", text):
                        of_text = found.setdefault(text, set())
                        if isinstance(node, ast.Call) or not of_text:
                            of_text |= numbers
    return found


def source_of(row: Row) -> str:
    """The test with its decorators."""
    content = row.file.read_text()
    name = row.test.partition("::")[2]
    found = [node for node in ast.parse(content).body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert len(found) == 1, f"{row.test} is there {len(found)} times"
    first = min([found[0].lineno, *(each.lineno for each in found[0].decorator_list)])
    return "\n".join(content.splitlines()[first - 1 : found[0].end_lineno])


def test_the_table_has_its_rows_and_each_its_own_name() -> None:
    assert len([row for row in ROWS if row.code is not None]) >= LEAST_ROWS
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.sent for row in ROWS)


def test_every_test_of_the_table_is_collected() -> None:
    wanted = sorted({row.test for row in ROWS})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *wanted]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert collected.returncode == 0, collected.stdout[-2000:] + collected.stderr[-2000:]
    found = {line.partition("[")[0] for line in collected.stdout.splitlines()}
    assert set(wanted) <= found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_error_of_a_row_is_one_that_the_code_has_and_its_test_names(row: Row) -> None:
    source = source_of(row)
    if row.code is None:
        assert row.error.startswith("none")
        return
    if row.code in BARE:
        return
    status, _, code = row.code.partition(" ")
    if not code:
        assert row.code in error_classes()
        assert row.code in row.file.read_text() or row.file.name in WHOLE_PROGRAMS
    elif status == "200":
        assert code in get_args(ReportResponse.model_fields["status"].annotation)
        assert code in source
    else:
        assert int(status) in statuses_of_codes()[code], statuses_of_codes()[code]
        assert code in source or status in source
