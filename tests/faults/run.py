"""Run many schedules of faults: ``python -m tests.faults.run --schedules 100``, one of them again with ``--seed 17``.

Ends with status 1 when a run was wrong, or when the schedules together missed a crash point. What a failed run left is
kept in the folder that is printed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.faults.fleet import FleetRun, run_fleet
from tests.faults.schedule import CRASH_POINTS, UNDISTURBED, schedule
from tests.faults.tiny_family import write_family
from tests.faults.verdict import check_run

ENOUGH_FOR_EVERY_CRASH_POINT = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the schedules that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--schedules", type=int, default=20, metavar="N", help="seeds 0 to N-1 (default 20)")
    parser.add_argument("--seed", type=int, action="append", help="this seed instead; may be given several times")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="runs at the same time (default 4)")
    options = parser.parse_args(arguments)
    seeds = options.seed or list(range(options.schedules))
    started_s = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="quadloom-faults-"))
    happened, failed = run_schedules(seeds, undisturbed=run_undisturbed(work), work=work, jobs=options.jobs)
    missed = (
        [point for point in CRASH_POINTS if not happened[point]] if len(seeds) >= ENOUGH_FOR_EVERY_CRASH_POINT else []
    )
    for name, count in sorted(happened.items()):
        print(f"{count:5d}  {name}")
    print(f"{len(seeds)} schedules, {len(failed)} failed {failed or ''}, {time.monotonic() - started_s:.0f} s")
    if missed:
        print(f"never reached: {', '.join(missed)}")
    if not failed:
        shutil.rmtree(work)
    return 1 if failed or missed else 0


def run_undisturbed(work: Path) -> FleetRun:
    """Make a family, and the run of it that all others must equal."""
    run = run_fleet(UNDISTURBED, family=write_family(work / "family"), work=work / "undisturbed")
    check_run(run, undisturbed=run)
    return run


def run_schedules(seeds: list[int], *, undisturbed: FleetRun, work: Path, jobs: int) -> tuple[Counter[str], list[int]]:
    """Run them, a few at a time; returns how often each fault came to pass, and the seeds that failed."""
    happened: Counter[str] = Counter()
    failed: list[int] = []
    with ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(_checked, seed, undisturbed, work / str(seed)): seed for seed in seeds}
        for done in as_completed(runs):
            seed = runs[done]
            try:
                run = done.result()
            except Exception as error:
                failed.append(seed)
                print(f"FAILED {schedule(seed)}\n{error}\nleft in {work / str(seed)}; again: --seed {seed}", flush=True)
                continue
            happened.update((*run.died_at, *(f"{each.side} of {each.request} cut" for each in run.cuts)))
            print(f"ok {schedule(seed)}", flush=True)
            shutil.rmtree(work / str(seed))
    return happened, sorted(failed)


def _checked(seed: int, undisturbed: FleetRun, work: Path) -> FleetRun:
    run = run_fleet(schedule(seed), family=undisturbed.family, work=work)
    check_run(run, undisturbed=undisturbed)
    return run


if __name__ == "__main__":
    sys.exit(main())
