"""The planners of a round, by name."""

from collections.abc import Mapping

from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning.deadline import DeadlineSettings, deadline_planner
from quadloom_server.planning.deepest_each import deepest_each
from quadloom_server.planning.depth_only import depth_only
from quadloom_server.planning.fedquad import fedquad
from quadloom_server.planning.full_depth import exclude_weak, full_depth
from quadloom_server.planning.round_plan import RoundPlanner
from quadloom_server.planning.uniform_depth import uniform_depth

DEFAULT_PLANNER = "deepest"

RANK_SHARES = (0.25, 0.5, 1.0)
"""Of a device's LoRA rank: less of it takes less time on the link."""

PLANNERS: Mapping[str, RoundPlanner] = {
    "deadline": deadline_planner(DeadlineSettings()),
    "deadline-everyone": deadline_planner(DeadlineSettings(included_every_rounds=1)),
    "deadline-of-others": deadline_planner(DeadlineSettings(voters="others")),
    "deadline-ranks": deadline_planner(DeadlineSettings(rank_shares=RANK_SHARES)),
    "fedquad": fedquad,
    "deepest": deepest_each,
    "depth-only": depth_only,
    "exclude-weak": exclude_weak,
    "full-depth": full_depth,
    "uniform-depth": uniform_depth,
}


def planner(name: str) -> RoundPlanner:
    """The planner of that name.

    Raises:
        QuadloomError: there is none.
    """
    if name not in PLANNERS:
        raise QuadloomError(f"no planner is called {name!r}", remedy=f"choose one of: {', '.join(PLANNERS)}")
    return PLANNERS[name]
