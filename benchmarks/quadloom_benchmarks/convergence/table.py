"""Races as text."""

import math
from collections.abc import Sequence
from statistics import fmean

from quadloom_benchmarks.convergence.found import Convergence, Row
from quadloom_benchmarks.convergence.grid import Choice

SHARES = (0.90, 0.95, 0.98)
SUMMARY_SHARE = 0.95


def table(found: Convergence) -> str:
    """Per method: time to shares of the ceiling, final accuracy, waiting, bytes; then its time against ours.

    A time is ``median (least to largest), reached / runs``; one above the budget was not reached.
    """
    width = max(len(row.method) for row in found.rows)
    head = "".join(f"{f's to {100 * share:.0f} % ({100 * found.target(share):.2f})':>32}" for share in SHARES)
    ratios = "".join(f"{f'x at {100 * share:.0f} %':>11}" for share in SHARES)
    return "\n".join(
        [
            found.setting,
            _ceiling(found),
            f"times in virtual seconds: median (range) reached/runs, by isotonic fit; x: median time against "
            f"{found.rows[0].method}; rate: of LoRA{_grid(found.rows[0].choice)}",
            f"{'':>{width}}{'rate':>9}{head}{ratios}{'final %':>9}{'(range)':>18}{'waiting':>9}{'MB':>9}{'rounds':>8}",
            *(_line(found, row, width) for row in found.rows),
        ]
    )


def summary(races: Sequence[Convergence]) -> str:
    """Of several races, each method's time to 95 % of the ceiling against ours."""
    methods = list(dict.fromkeys(row.method for found in races for row in found.rows))
    names = [found.name for found in races]
    width, column = max(map(len, methods)), max(map(len, names)) + 2
    lines = [f"x at {100 * SUMMARY_SHARE:.0f} %", f"{'':>{width}}" + "".join(f"{name:>{column}}" for name in names)]
    for method in methods:
        rows = [next((row for row in found.rows if row.method == method), None) for found in races]
        cells = [
            "" if row is None else _ratio(found, row, SUMMARY_SHARE) for found, row in zip(races, rows, strict=True)
        ]
        lines.append(f"{method:>{width}}" + "".join(f"{cell:>{column}}" for cell in cells))
    return "\n".join(lines)


def _ceiling(found: Convergence) -> str:
    """What the targets are worth: a share of the ceiling may be less than what the head alone reaches."""
    ceiling = found.ceiling
    runs = [100 * each.accuracy for each in ceiling.runs]
    made_for = f" in the race {ceiling.choice.made_for}" if ceiling.choice.made_for else ""
    way = ", ".join(f"{100 * share:.0f} % is {100 * ceiling.way(found.target(share)):.0f} %" for share in SHARES)
    return (
        f"in one place, {ceiling.epochs} epochs: ceiling {100 * ceiling.accuracy:.2f} % ({min(runs):.2f} to "
        f"{max(runs):.2f}, {len(runs)} seeds, rate {ceiling.choice.learning_rate:g}{made_for}); head alone "
        f"{100 * ceiling.head.accuracy:.2f} %; untrained {100 * ceiling.start.accuracy:.2f} %, and of the way from "
        f"there to the ceiling {way}, the head alone {100 * ceiling.way(ceiling.head.accuracy):.0f} %"
    )


def _grid(choice: Choice) -> str:
    rates = ", ".join(f"{rate:g}" for rate, _ in choice.scores)
    where = f" in the race {choice.made_for}" if choice.made_for else ""
    return f", chosen on validation text from {rates}{where}" if rates else ""


def _line(found: Convergence, row: Row, width: int) -> str:
    runs = row.runs
    times = "".join(f"{_times(found, row, share):>32}" for share in SHARES)
    ratios = "".join(f"{_ratio(found, row, share):>11}" for share in SHARES)
    finals = [100 * run.final_accuracy for run in runs]
    waiting = 100 * fmean(run.waiting_share for run in runs)
    megabytes = fmean(run.transferred_bytes for run in runs) / 1e6
    rounds = fmean(run.rounds for run in runs)
    diverged = sum(run.diverged for run in runs)
    return (
        f"{row.method:>{width}}{row.choice.learning_rate:>9g}{times}{ratios}{100 * row.final_accuracy:>9.2f}"
        f"{f'({min(finals):.2f} to {max(finals):.2f})':>18}{waiting:>7.0f} %{megabytes:>9.1f}{rounds:>8.0f}"
        f"{f'  {diverged} diverged' if diverged else ''}"
    )


def _times(found: Convergence, row: Row, share: float) -> str:
    times = row.times_s(found.target(share))
    reached = sum(map(math.isfinite, times))
    first, middle, last = (_seconds(each, found) for each in (times[0], row.median_s(found.target(share)), times[-1]))
    return f"{middle} ({first} to {last}) {reached}/{len(times)}"


def _seconds(time_s: float, found: Convergence) -> str:
    return f">{found.budget_s:.0f}" if math.isinf(time_s) else f"{time_s:.1f}"


def _ratio(found: Convergence, row: Row, share: float) -> str:
    ratio, bound = found.ratio(row, share)
    return "-" if math.isnan(ratio) else f"{bound.strip('=')}{ratio:.2f}"
