"""What one device may claim in one update, no more than it has and was asked to do, and what of it counts."""

from quadloom_runtime.contract.wire import Capabilities, TrainingSettings
from quadloom_runtime.trainer import planned_steps
from quadloom_server.aggregation.validation import UpdateBounds
from quadloom_server.rounds.policy import RoundPolicy


def counted_examples(policy: RoundPolicy, examples: int) -> int:
    """How many of these examples count; more are no reason to refuse an update."""
    return min(examples, policy.max_examples_per_update or examples)


def update_bounds(
    policy: RoundPolicy, settings: TrainingSettings, capabilities: Capabilities, *, batch_size: int
) -> UpdateBounds:
    """The bounds of an update of a device with these capabilities.

    A report counts each example once, however often it was trained on.
    """
    return UpdateBounds(
        examples=capabilities.examples,
        steps=planned_steps(capabilities.examples, batch_size=batch_size, settings=settings),
        norm=policy.max_update_norm,
    )
