"""`quadloom bench step`: CPU time of one training step, interleaved with PyTorch eager + PEFT."""

from statistics import median

from quadloom_benchmarks.contender import member_contender
from quadloom_benchmarks.interleaved import measure_interleaved, time_ratio
from quadloom_benchmarks.rivals.contenders import pytorch_contender
from quadloom_benchmarks.series import Series


def report_step_times(compared: list[Series], *, rounds: int) -> None:
    """Measure and print the table. Ratios are medians of the ratios within a round."""
    family = compared[0].family
    contenders = [pytorch_contender(family, returning=returning) for returning in (False, True)]
    contenders += [member_contender(each, key) for each in compared for key in each.keys]
    found = measure_interleaved(contenders, rounds=rounds)
    print(f"CPU time per step, 1 thread, {rounds} interleaved rounds, one process each, {family.shape}")
    print(f"{'':>56} {'median s':>9} {'against (1)':>12} {'against (2)':>12}")
    for mark, contender, own in zip(["(1) ", "(2) ", *[""] * len(found)], contenders, found, strict=False):
        ratios = [time_ratio(own.seconds, reference.seconds) for reference in found[:2]]
        print(f"{mark + contender.name:>56} {median(own.seconds):9.3f} {ratios[0]:12.2f} {ratios[1]:12.2f}")
