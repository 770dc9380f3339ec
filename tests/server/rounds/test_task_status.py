"""The status of a task is asked for while rounds close: it must not say more than it shows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

MakeTask = Callable[..., Any]
QUERIES = 14
"""Of a status of one round."""


@contextmanager
def before_query(task: Any, number: int, happens: Callable[[], None]) -> Iterator[None]:
    """Let something happen just before the next query of this number."""
    left = number

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            happens()

    engine = task.state.sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", count)
    yield
    event.remove(engine, "before_cursor_execute", count)


@pytest.mark.parametrize("number", range(1, QUERIES + 1))
def test_a_task_that_is_said_to_be_finished_shows_its_last_round_closed_and_evaluated(
    make_task: MakeTask, number: int
) -> None:
    task = make_task(rounds=1)
    (device,) = task.enrol("device")
    mine = task.assignment(device)
    task.report(mine.assignment_id, task.content(mine, 0.1))
    with before_query(task, number, task.run_background):
        status = task.rounds.task_status()
    (last,) = status.rounds
    if status.state == "finished":
        assert last.state == "closed"
    if last.state == "closed":
        assert last.evaluation is not None
        assert status.initial_evaluation is not None
