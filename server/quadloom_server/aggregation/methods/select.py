"""Every aggregation method by its name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.adapter_layout import AdapterLayout
from quadloom_server.aggregation.method import Aggregation
from quadloom_server.aggregation.methods.fed_avg import FedAvg
from quadloom_server.aggregation.methods.flex_lora import FlexLora
from quadloom_server.aggregation.methods.flex_lora_change import FlexLoraChange
from quadloom_server.aggregation.methods.flora import Flora
from quadloom_server.aggregation.methods.het_lora import het_lora
from quadloom_server.aggregation.methods.rank_segments import RankSegments
from quadloom_server.aggregation.methods.zero_padding import ZeroPadding

METHODS: Final[Mapping[str, Callable[[AdapterLayout], Aggregation[Any]]]] = {
    "fedavg": FedAvg,
    "zero-padding": ZeroPadding,
    "hetlora": het_lora,
    "flora": Flora,
    "flexlora": FlexLora,
    "flexlora-change": FlexLoraChange,
    "rank-segments": RankSegments,
}
OF_FIXED_SIZE: Final = tuple(name for name in METHODS if name != "flora")
"""Those whose adapter and state do not grow with the number of devices: what a server can train with for long."""


def make_aggregation(name: str, layout: AdapterLayout) -> Aggregation[Any]:
    """The method of this name for one adapter.

    Raises:
        QuadloomError: no method has this name.
    """
    if name not in METHODS:
        raise QuadloomError(f"no aggregation is called {name!r}", remedy=f"choose one of {', '.join(METHODS)}")
    return METHODS[name](layout)
