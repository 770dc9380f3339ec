"""What a late update counts against the others of its round; one that is alone in it counts in full."""

import math


def staleness_weight(rounds: int) -> float:
    """``1 / (1 + sqrt(staleness))``, in simulated fleets as in real ones.

    Args:
        rounds: that have closed since the update's device got its parameters; 0 weighs 1.
    """
    return 1 / (1 + math.sqrt(rounds))
