"""A race as a chart: accuracy over virtual time, per method the median over the seeds in front of their range."""

from pathlib import Path
from statistics import median

from quadloom_benchmarks.convergence.found import Convergence
from quadloom_benchmarks.convergence.table import SHARES
from quadloom_benchmarks.svg import svg_chart

RANGE_ALPHA = 0.1
COLORS = 10
"""Of matplotlib's cycle; later methods repeat them, dashed."""


def draw_chart(found: Convergence, path: Path) -> None:
    """Write the chart as SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with svg_chart(path, title=found.setting.split(";")[0]) as axes:
        for place, row in enumerate(found.rows):
            color, line = f"C{place % COLORS}", "-" if place < COLORS else "--"
            times = [each.at_s for each in row.runs[0].curve]
            accuracies = list(zip(*([100 * each.accuracy for each in run.curve] for run in row.runs), strict=True))
            axes.fill_between(
                times, list(map(min, accuracies)), list(map(max, accuracies)), color=color, alpha=RANGE_ALPHA
            )
            width = 2.5 if place == 0 else 1.2
            axes.plot(times, list(map(median, accuracies)), line, color=color, linewidth=width, label=row.method)
        for share in (1.0, *SHARES):
            axes.axhline(100 * found.target(share), color="grey", linewidth=0.7, linestyle=":")
        axes.set_xlabel("virtual seconds")
        axes.set_ylabel("accuracy on held-out text, %; dotted: the central ceiling and shares of it")
