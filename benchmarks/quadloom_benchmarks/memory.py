"""`quadloom bench memory`: step peak per member against the plan and against PyTorch eager + PEFT."""

from quadloom_benchmarks.contender import Contender, member_contender
from quadloom_benchmarks.rivals.contenders import pytorch_contender
from quadloom_benchmarks.series import Series


def report_memory(compared: list[Series], *, steps: int) -> None:
    """Measure and print the table."""
    family = compared[0].family
    print(
        f"step peak beyond the loaded, idle process (anonymous memory, weights excluded); fresh process per row, "
        f"largest of {steps} steps, 1 thread, {family.shape}"
    )
    reference = 0
    for returning in (False, True):
        eager = pytorch_contender(family, returning=returning)
        reference = _peak_bytes(eager, steps)
        print(f"{eager.name}: {reference / 1e6:.1f} MB")
    print(
        f"{'member':>40} {'planned MB':>11} {'measured MB':>12} {'off':>7} "
        f"{'against own q=0':>16} {'against PyTorch (buffers returned)':>35}"
    )
    for series in compared:
        _report_series(series, reference, steps=steps)


def _report_series(series: Series, reference: int, *, steps: int) -> None:
    planned = {each.key: each.planned_peak_bytes for each in series.family.manifest.members}
    unquantized: dict[tuple[int, int], int] = {}
    worst = 0.0
    for key in series.keys:
        contender = member_contender(series, key)
        measured = _peak_bytes(contender, steps)
        budget = (key.depth, key.recompute_percent)
        if key.quantized_layers == 0:
            unquantized[budget] = measured
        off = measured / planned[key] - 1
        worst = max(worst, abs(off))
        own = f"{100 * (measured / unquantized[budget] - 1):+.1f} %" if budget in unquantized else "-"
        print(
            f"{contender.name:>40} {planned[key] / 1e6:11.1f} {measured / 1e6:12.1f} {100 * off:+6.1f}% "
            f"{own:>16} {100 * (measured / reference - 1):+33.1f} %"
        )
    print(f"{series.name}: worst difference between planned and measured {100 * worst:.1f} %")


def _peak_bytes(contender: Contender, steps: int) -> int:
    with contender:
        return max(int(contender.step()["peak_bytes"]) for _ in range(steps))
