"""How a task averages: a method by its name, over the adapter of a family."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.adapter_layout import adapter_layout
from quadloom_server.aggregation.method import Aggregation
from quadloom_server.aggregation.methods.select import OF_FIXED_SIZE, make_aggregation

DEFAULT_AGGREGATION: Final = "fedavg"


def check_served(name: str) -> None:
    """Refuse a method that a server cannot use.

    Raises:
        QuadloomError: it is unknown, or what a round holds of it grows with the number of devices.
    """
    if name not in OF_FIXED_SIZE:
        raise QuadloomError(f"no server can average by {name!r}", remedy=f"choose one of {', '.join(OF_FIXED_SIZE)}")


@dataclass(frozen=True)
class Averaging:
    """What makes the method that a round is aggregated with.

    Attributes:
        name: in `aggregation.methods.select`.
    """

    name: str
    manifest: FamilyManifest

    @property
    def rank(self) -> int:
        """Rank of the global adapter."""
        return self.manifest.lora.rank

    def method(self, ranks: Collection[int] = ()) -> Aggregation[Any]:
        """The method for updates of these ranks.

        Segments between ranks that no update has need not be told apart, so a round's own ranks are enough.

        Raises:
            UnpairedTensorError: the family's parameter table is not one of LoRA pairs.
        """
        layout = adapter_layout(self.manifest.parameters, alpha=self.manifest.lora.alpha, device_ranks=sorted(ranks))
        return make_aggregation(self.name, layout)
