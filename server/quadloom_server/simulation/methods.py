"""The methods of the race, one value each: who is asked, who trains what, at which rank, and how it is averaged.

A device that cannot hold what a method wants of it sits out: under `full-depth` one that cannot hold full depth with
all quantization that the family offers, under `exclude-weak` one that cannot without. Both draw among the others.
`full-depth-everywhere` is no baseline but a yardstick: every device trains all layers, unquantized, as if it could. For
`hetlora` and `flexlora` every device trains the deepest member that fits it, at its group's rank: their papers have
devices that differ in rank alone, and shutting the weak ones out would take away what they are made for. So it is with
`zero-padding` and `uniform-smallest-rank`, with which FlexLoRA's paper compares; if all ranks are equal, padding adds
nothing, and the latter is plain averaging. `flexlora-change` is our FlexLoRA, `rank-segments` is against the collapse
of ranks.
Labels that go with the class of a device pull rounds of few devices to and fro. What is `balanced` draws every class of
device into each round, and has devices train on all of their classes of text alike; `fedquad-balanced` shows what of a
gain is due to both, `fedquad-every-class` and `fedquad-class-balance` what to the one or the other alone, and
`fedquad-steady` what momentum on the server does instead.
`best` is balanced, too, and waits for nobody: a round closes with two updates of the eight under way, and each kind of
device has its share of the time of the eight places. Each of the eight started without the others' changes, so what all
want is changed up to four times over; with the whole step of every round that swings without end, with 0.4 of it no
longer. That share falls as rounds go by, since devices have few examples of some classes and learn these by heart; what
swings are left the mean of recent rounds takes away. `best-newest` shows what of that is due to this mean,
`best-deepest` what to the planner: everybody trains the deepest that fits. `best-full-depth` leaves those out who
cannot hold all layers. `full-depth-balanced` is a baseline with what any method could have of it.
For slow links, `best-ranks` is `best` with the rank as a further choice of its planner; `best-smallest-rank` has all
train at the smallest rank of the fleet instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.server_optimizer import FedAvgMomentum, FedAvgStep, ServerOptimizer
from quadloom_server.planning.deadline import DeadlineSettings, deadline_planner
from quadloom_server.planning.registry import RANK_SHARES, planner
from quadloom_server.planning.round_plan import RoundPlanner
from quadloom_server.simulation.layer_choice import LayerChoice, important_layers, layer_planner, random_layers
from quadloom_server.simulation.selection import Selection, able, every_class, every_class_in_turn, uniform
from quadloom_server.simulation.virtual_clock import SYNCHRONOUS, Closing
from quadloom_server.simulation.without_limits import without_memory_limits

Ranks = Literal["family", "own", "smallest"]


@dataclass(frozen=True)
class Method:
    """A way of training a fleet.

    Attributes:
        planner: who trains what.
        aggregation: name in `aggregation.methods.select`.
        ranks: whether every device trains at the family's rank, at its own, or at the smallest of the fleet.
        selection: whom the planner sees.
        layers: which layers of its member a device moves; None for all.
        closing: when its rounds close, unless the run says otherwise.
        server_optimizer: what the server makes of the average.
        mean_share: over the last so many of all rounds the parameters are averaged that are judged; devices start
            from the newest. 0 judges those.
        class_balance: whether devices train on all of their classes alike.
    """

    planner: RoundPlanner
    aggregation: str = "fedavg"
    ranks: Ranks = "family"
    selection: Selection = uniform
    layers: LayerChoice | None = None
    closing: Closing = SYNCHRONOUS
    server_optimizer: ServerOptimizer = field(default_factory=FedAvgStep)
    mean_share: float = 0.0
    class_balance: bool = False


BEST: Final = Method(
    planner("deadline-everyone"),
    selection=every_class_in_turn,
    closing=Closing(updates=2, largest_staleness=8),
    server_optimizer=FedAvgStep(rate=0.4, decay_rounds=20),
    mean_share=1 / 3,
    class_balance=True,
)
METHODS: Final[Mapping[str, Method]] = {
    "best": BEST,
    "best-newest": replace(BEST, mean_share=0),
    "best-deepest": replace(BEST, planner=planner("deepest")),
    "best-full-depth": replace(BEST, planner=planner("full-depth"), selection=able),
    "best-ranks": replace(
        BEST, planner=deadline_planner(DeadlineSettings(included_every_rounds=1, rank_shares=RANK_SHARES))
    ),
    "best-smallest-rank": replace(BEST, ranks="smallest"),
    "fedquad": Method(planner("fedquad")),
    "deadline-balanced": Method(planner("deadline"), selection=every_class, class_balance=True),
    "fedquad-balanced": Method(planner("fedquad"), selection=every_class, class_balance=True),
    "fedquad-every-class": Method(planner("fedquad"), selection=every_class),
    "fedquad-class-balance": Method(planner("fedquad"), class_balance=True),
    "fedquad-steady": Method(planner("fedquad"), selection=every_class, server_optimizer=FedAvgMomentum()),
    "full-depth": Method(planner("full-depth"), selection=able),
    "full-depth-balanced": Method(planner("full-depth"), selection=able, mean_share=1 / 3, class_balance=True),
    "exclude-weak": Method(planner("exclude-weak"), selection=able),
    "full-depth-everywhere": Method(without_memory_limits(planner("exclude-weak"))),
    "uniform-depth": Method(planner("uniform-depth")),
    "depth-only": Method(planner("depth-only")),
    "hetlora": Method(planner("deepest"), aggregation="hetlora", ranks="own"),
    "flexlora": Method(planner("deepest"), aggregation="flexlora", ranks="own"),
    "flexlora-change": Method(planner("deepest"), aggregation="flexlora-change", ranks="own"),
    "rank-segments": Method(planner("deepest"), aggregation="rank-segments", ranks="own"),
    "zero-padding": Method(planner("deepest"), aggregation="zero-padding", ranks="own"),
    "uniform-smallest-rank": Method(planner("deepest"), aggregation="zero-padding", ranks="smallest"),
    "random-layers": Method(layer_planner(random_layers), layers=random_layers),
    "importance-layers": Method(layer_planner(important_layers), layers=important_layers),
}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        QuadloomError: there is none.
    """
    if name not in METHODS:
        raise QuadloomError(f"no method is called {name!r}", remedy=f"choose one of: {', '.join(METHODS)}")
    return METHODS[name]
