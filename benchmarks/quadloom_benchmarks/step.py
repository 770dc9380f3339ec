"""`quadloom bench step`: CPU time of one training step, interleaved with PyTorch eager + PEFT."""

from statistics import median

from quadloom_benchmarks.contender import member_contender
from quadloom_benchmarks.interleaved import measure_interleaved, time_ratio
from quadloom_benchmarks.rivals.contenders import pytorch_contender
from quadloom_benchmarks.series import Series
from quadloom_runtime.contract.manifest import MemberKey


def report_step_times(compared: list[Series], *, rounds: int) -> None:
    """Measure and print the table. Ratios are medians of the ratios within a round.

    Beside the times stand each member's arena, as its manifest states it, and the growth of anonymous memory (RssAnon).
    """
    family = compared[0].family
    members = [(series, key) for series in compared for key in series.keys]
    contenders = [pytorch_contender(family, returning=returning) for returning in (False, True)]
    contenders += [member_contender(series, key) for series, key in members]
    arenas = ["", "", *(_arena_megabytes(series, key) for series, key in members)]
    found = measure_interleaved(contenders, rounds=rounds)
    print(f"CPU time per step, 1 thread, {rounds} interleaved rounds, one process each, {family.shape}")
    print(f"{'':>56} {'median s':>9} {'against (1)':>12} {'against (2)':>12} {'arena MB':>9} {'RssAnon MB':>11}")
    marks = ["(1) ", "(2) ", *[""] * len(members)]
    for mark, contender, own, arena in zip(marks, contenders, found, arenas, strict=True):
        ratios = [time_ratio(own.seconds, reference.seconds) for reference in found[:2]]
        print(
            f"{mark + contender.name:>56} {median(own.seconds):9.3f} {ratios[0]:12.2f} {ratios[1]:12.2f} "
            f"{arena:>9} {own.peak_bytes / 1e6:11.1f}"
        )


def _arena_megabytes(series: Series, key: MemberKey) -> str:
    (member,) = [each for each in series.family.manifest.members if each.key == key]
    return "-" if member.arena_bytes is None else f"{member.arena_bytes / 1e6:.1f}"
