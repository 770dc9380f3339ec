"""The mean of the global parameters over recent rounds: what is judged and given out, while devices train the newest.

Rounds of few updates pull the newest parameters to and fro around what they agree on; their mean lies nearer to it
(Polyak and Juditsky 1992). The mean is over about the last so many of all rounds, not over a fixed number: early it
forgets quickly what was far off, late it is steady, and nobody has to know how many rounds there will be. Round k of n
counts about in proportion to ``(k / n)^(1 / share - 1)``: polynomial-decay averaging (Shamir and Zhang, Stochastic
Gradient Descent for Non-smooth Optimization, ICML 2013), which needs no more than the mean before.
"""

import numpy as np

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.method import Parameters


def recent_mean(mean: Parameters, newest: Parameters, *, round_index: int, share: float) -> dict[str, FloatArray]:
    """The mean with one more round in it.

    Args:
        mean: until the round before; of no meaning in round 1.
        newest: the parameters after round `round_index`.
        share: of all rounds that the mean is over; as long as that is one round or less, it is `newest`, bit by bit.
    """
    weight = np.float32(1 / max(1.0, share * round_index))
    if weight == 1:
        return dict(newest)
    return {name: mean[name] + weight * (value - mean[name]) for name, value in newest.items()}
