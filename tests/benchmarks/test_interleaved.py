"""Rounds in which every contender makes a step."""

import pytest

from quadloom_benchmarks.interleaved import WARM_UP_ROUNDS, Measured, measure_interleaved, time_ratio


class Scripted:
    """A contender that tells when it stepped."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary, self.steps = name, diary, 0

    def __enter__(self) -> "Scripted":
        self.diary.append(f"{self.name} starts")
        return self

    def __exit__(self, *_: object) -> None:
        self.diary.append(f"{self.name} ends")

    def step(self) -> dict[str, float]:
        self.steps += 1
        self.diary.append(self.name)
        return {"cpu_s": float(self.steps), "peak_bytes": 10 * self.steps}


def test_steps_alternate_and_warm_up_counts_for_memory_only():
    diary: list[str] = []
    found = measure_interleaved([Scripted("a", diary), Scripted("b", diary)], rounds=2)  # type: ignore[list-item]
    assert diary == ["a starts", "b starts", *["a", "b"] * (WARM_UP_ROUNDS + 2), "b ends", "a ends"]
    first = WARM_UP_ROUNDS + 1.0
    assert found == [Measured(peak_bytes=10 * (WARM_UP_ROUNDS + 2), seconds=(first, first + 1))] * 2


def test_a_ratio_is_the_median_of_the_rounds_own():
    assert time_ratio((1.0, 4.0, 3.0), (2.0, 2.0, 2.0)) == pytest.approx(1.5)
