"""`quadloom bench frontier`: memory and time of a step, ours against what a user would pick instead, in one run."""

from pathlib import Path

from quadloom_benchmarks.contender import Contender, member_contender
from quadloom_benchmarks.interleaved import Measured, measure_interleaved, time_ratio
from quadloom_benchmarks.rivals.contenders import accumulating_contenders, pytorch_contender, rival_contenders
from quadloom_benchmarks.series import Series
from quadloom_runtime.contract.manifest import MemberKey, Value


class Row(Value):
    """A contender and what its steps took.

    Attributes:
        method, variant: how it trains, and which of several ways to do that: for ours, the member.
        peak_bytes: beyond the loaded, idle process, weights excluded.
        seconds: processor time per round.
        planned_bytes: peak that the exporter planned, of ours alone.
        gradient_error: relative error of the adapter's gradient as the manifest states it, of ours alone.
        unquantized: place of the row that this one is to be smaller than: its depth, q = 0, least recomputed.
    """

    method: str
    variant: str
    peak_bytes: int
    seconds: tuple[float, ...]
    planned_bytes: int | None = None
    gradient_error: float | None = None
    unquantized: int | None = None


class Frontier(Value):
    """One run.

    Attributes:
        setting: what was trained and how it was measured.
        rows: the first two are PyTorch eager + PEFT, (1) and (2), which every row is compared with.
    """

    setting: str
    rows: tuple[Row, ...]

    def memory_ratio(self, row: Row, reference: int) -> float:
        """Peak against that of the row at place `reference`."""
        return row.peak_bytes / self.rows[reference].peak_bytes

    def time_ratio(self, row: Row, reference: int) -> float:
        """Step time against that of the row at place `reference`, in the median round."""
        return time_ratio(row.seconds, self.rows[reference].seconds)


def measure_frontier(compared: list[Series], *, rounds: int, work: Path, ort_training_python: Path | None) -> Frontier:
    """Make the rivals of the first family, then measure all contenders together."""
    family = compared[0].family
    rivals = [pytorch_contender(family, returning=returning) for returning in (False, True)]
    rivals += rival_contenders(family, work=work / "rivals", ort_training_python=ort_training_python)
    for accumulation, parted in {each.accumulation: each.family for each in compared if each.accumulation > 1}.items():
        rivals += accumulating_contenders(parted, accumulation)
    members = [(series, key) for series in compared for key in series.keys]
    contenders = [*rivals, *(member_contender(series, key) for series, key in members)]
    found = measure_interleaved(contenders, rounds=rounds)
    rows = [_row(contender, measured) for contender, measured in zip(contenders, found, strict=True)]
    plain = [
        (series.kind, key, len(rivals) + index)
        for index, (series, key) in enumerate(members)
        if series.plain and key.quantized_layers == 0
    ]
    # Of several budgets the smallest is entered last, and stays.
    plain.sort(key=lambda row: row[1].recompute_percent, reverse=True)
    places = {(kind, key.depth): place for kind, key, place in plain}
    for index, (series, key) in enumerate(members, start=len(rivals)):
        rows[index] = _as_member(rows[index], series, key, unquantized=places.get((series.kind, key.depth)))
    return Frontier(
        setting=f"{family.shape}; 1 thread, one process each, {rounds} interleaved rounds", rows=tuple(rows)
    )


def table(frontier: Frontier) -> str:
    """All rows. Memory is the peak beyond the loaded, idle process; ratios of time are medians over the rounds."""
    width = max(len(_name(row)) for row in frontier.rows) + 4
    head = f"{'':>{width}} {'peak':>8} {'planned':>8} {'peak against':>26} {'time against':>17} {'gradient':>9}"
    units = (
        f"{'':>{width}} {'MB':>8} {'MB':>8} {'own q=0':>8} {'(1)':>8} {'(2)':>8} {'(1)':>8} {'(2)':>8} {'error %':>9}"
    )
    lines = [_line(frontier, place, width) for place in range(len(frontier.rows))]
    return "\n".join([frontier.setting, head, units, *lines])


def _row(contender: Contender, measured: Measured) -> Row:
    return Row(
        method=contender.method, variant=contender.variant, peak_bytes=measured.peak_bytes, seconds=measured.seconds
    )


def _as_member(row: Row, series: Series, key: MemberKey, *, unquantized: int | None) -> Row:
    (member,) = [each for each in series.family.manifest.members if each.key == key]
    return row.model_copy(
        update={
            "planned_bytes": member.planned_peak_bytes,
            "gradient_error": member.gradient_error.relative_l2,
            "unquantized": unquantized,
        }
    )


def _name(row: Row) -> str:
    return f"{row.method}, {row.variant}"


def _line(frontier: Frontier, place: int, width: int) -> str:
    row, mark = frontier.rows[place], {0: "(1) ", 1: "(2) "}.get(place, "")
    planned = "" if row.planned_bytes is None else f"{row.planned_bytes / 1e6:.1f}"
    own = "" if row.unquantized is None else f"{frontier.memory_ratio(row, row.unquantized):.2f}"
    error = "" if row.gradient_error is None else f"{100 * row.gradient_error:.2f}"
    return (
        f"{mark + _name(row):>{width}} {row.peak_bytes / 1e6:8.1f} {planned:>8} {own:>8} "
        f"{frontier.memory_ratio(row, 0):8.2f} {frontier.memory_ratio(row, 1):8.2f} "
        f"{frontier.time_ratio(row, 0):8.2f} {frontier.time_ratio(row, 1):8.2f} {error:>9}"
    )
