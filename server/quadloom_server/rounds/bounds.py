"""What one device may claim in one update: no more than it has and was asked to do."""

from quadloom_runtime.contract.wire import Capabilities, TrainingSettings
from quadloom_runtime.trainer import planned_steps
from quadloom_server.aggregation.validation import UpdateBounds
from quadloom_server.rounds.policy import RoundPolicy


def update_bounds(
    policy: RoundPolicy, settings: TrainingSettings, capabilities: Capabilities, *, batch_size: int
) -> UpdateBounds:
    """The bounds of an update of a device with these capabilities."""
    possible = capabilities.examples * settings.epochs
    return UpdateBounds(
        examples=min(possible, policy.max_examples_per_update or possible),
        steps=planned_steps(capabilities.examples, batch_size=batch_size, settings=settings),
        norm=policy.max_update_norm,
    )
