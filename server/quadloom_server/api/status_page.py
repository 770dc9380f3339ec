"""The read-only page at / that shows the task to people; it reloads itself."""

from collections.abc import Iterable, Sequence
from html import escape

from quadloom_runtime.contract.status import DeviceStatus, RoundStatus, TaskStatus
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.units import format_bytes

RELOAD_S = 2
STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #d8dee4; font-variant-numeric: tabular-nums }
th { color: #57606a; font-weight: 600 }
"""


def status_page(model: str, status: TaskStatus) -> str:
    """The page as HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{RELOAD_S}">
<title>Quadloom: {escape(model)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(model)}</h1>
<p><strong>{status.state}</strong>: {escape(status.reason)}.</p>
<p>Accuracy of the initial adapter: {_accuracy(status.initial_evaluation)}.</p>
<p>Updates are averaged by {escape(status.aggregation)}; one may be {status.largest_staleness} rounds late.</p>
<h2>Rounds</h2>
{_table(ROUND_COLUMNS, map(_round, status.rounds))}
<h2>Devices</h2>
{_table(DEVICE_COLUMNS, map(_device, status.devices))}
</body>
</html>
"""


ROUND_COLUMNS = ("Round", "State", "Assigned", "Accepted", "Late", "Failed", "Seconds", "Accuracy")
DEVICE_COLUMNS = (
    "Device", "Profile", "Limit", "Member", "Rank", "Peak", "State", "Round", "Accepted", "Training", "Down", "Up"
)  # fmt: skip


def _round(row: RoundStatus) -> Sequence[object]:
    accuracy = _accuracy(row.evaluation)
    counts = row.assigned, row.accepted, row.late, row.failed
    return row.index, row.state, *counts, f"{row.duration_s:.1f}", accuracy


def _device(row: DeviceStatus) -> Sequence[object]:
    return (
        row.name,
        row.profile,
        format_bytes(row.memory_limit_bytes),
        row.member.label if row.member else "",
        row.rank or "",
        "" if row.peak_step_bytes is None else format_bytes(row.peak_step_bytes),
        row.state,
        row.round_index or "",
        row.rounds_accepted,
        f"{row.train_s:.1f} s",
        format_bytes(row.bytes_down),
        format_bytes(row.bytes_up),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _accuracy(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "not evaluated"
    return f"{evaluation.accuracy:.4f} of {evaluation.examples}, loss {evaluation.loss:.4f}"
