"""What one device may claim in one update: no more than it has and was asked to do."""

from quadloom_runtime.contract.wire import Capabilities, TrainingSettings
from quadloom_runtime.trainer import planned_steps
from quadloom_server.aggregation.validation import UpdateBounds
from quadloom_server.rounds.policy import RoundPolicy


def counted_examples(policy: RoundPolicy, capabilities: Capabilities) -> int:
    """Examples that a device counts as having: a report counts each once, however often it was trained on."""
    return min(capabilities.examples, policy.max_examples_per_update or capabilities.examples)


def update_bounds(
    policy: RoundPolicy, settings: TrainingSettings, capabilities: Capabilities, *, batch_size: int
) -> UpdateBounds:
    """The bounds of an update of a device with these capabilities."""
    return UpdateBounds(
        examples=counted_examples(policy, capabilities),
        steps=planned_steps(capabilities.examples, batch_size=batch_size, settings=settings),
        norm=policy.max_update_norm,
    )
