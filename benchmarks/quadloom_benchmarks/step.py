"""`quadloom bench step`: CPU time of one training step, interleaved with PyTorch eager + PEFT."""

from contextlib import ExitStack
from statistics import median

from quadloom_benchmarks.contender import eager_contender, member_contender
from quadloom_benchmarks.series import Series

WARM_UP_ROUNDS = 3


def report_step_times(compared: list[Series], *, rounds: int) -> None:
    """Measure and print the table.

    Every contender lives in a process of its own; in each round each makes one step, one after the other. Ratios are
    medians of the ratios within a round, so drift of the machine cancels.
    """
    seconds: dict[str, list[float]] = {}
    family = compared[0].family
    with ExitStack() as running:
        default = running.enter_context(eager_contender(family, returning_malloc=False))
        returning = running.enter_context(eager_contender(family, returning_malloc=True))
        contenders = [default, returning]
        contenders += [running.enter_context(member_contender(each, key)) for each in compared for key in each.keys]
        for index in range(rounds + WARM_UP_ROUNDS):
            for contender in contenders:
                spent = contender.step()["cpu_s"]
                if index >= WARM_UP_ROUNDS:
                    seconds.setdefault(contender.name, []).append(spent)
    batch = family.manifest.batch
    print(
        f"CPU time per step, 1 thread, {rounds} interleaved rounds, one process each, batch {batch.batch_size}, "
        f"sequence {batch.sequence_length}, {family.manifest.model.layers} layers"
    )
    print(f"{'':>48} {'median s':>9} {'against (1)':>12} {'against (2)':>12}")
    for name, values in seconds.items():
        mark = {default.name: "(1) ", returning.name: "(2) "}.get(name, "")
        ratios = [
            median(value / other for value, other in zip(values, seconds[reference.name], strict=True))
            for reference in (default, returning)
        ]
        print(f"{mark + name:>48} {median(values):9.3f} {ratios[0]:12.2f} {ratios[1]:12.2f}")
