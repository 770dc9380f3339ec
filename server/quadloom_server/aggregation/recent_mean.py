"""The mean of the global parameters over recent rounds: what is judged and given out, while devices train the newest.

Rounds of few updates pull the newest parameters to and fro around what they agree on; their mean lies nearer to it
(Polyak and Juditsky 1992; over recent rounds alone, so that the beginning is forgotten: Izmailov et al., Averaging
Weights Leads to Wider Optima and Better Generalization, arXiv 1803.05407).
"""

import numpy as np

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.method import Parameters


def recent_mean(mean: Parameters, newest: Parameters, *, round_index: int, window: int) -> dict[str, FloatArray]:
    """The mean with one more round in it: of all rounds while they are `window` at most, then an exponential one.

    Args:
        mean: until the round before; of no meaning in round 1.
        newest: the parameters after round `round_index`.
        window: rounds; 1 gives `newest`, bit by bit.
    """
    share = np.float32(1 / min(round_index, window))
    if share == 1:
        return dict(newest)
    return {name: mean[name] + share * (value - mean[name]) for name, value in newest.items()}
