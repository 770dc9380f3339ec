"""Split the rows of a layer only as far as memory asks for.

A matrix product of few rows is slower for each of them: the weights are read and packed once per share. Beside the wide
part of a layer lives the stash of the layers below it, in the forward as in the backward. So the nearer a layer is to
the input, the more room its rows have below the step's peak.
"""

from collections.abc import Callable, Mapping

from quadloom_export.graph import JointGraph
from quadloom_export.liveness import alive_bytes

Split = Callable[[Mapping[int, int]], JointGraph]
"""Makes the graph in which each layer has its number of shares."""


def fewest_row_chunks(split: Split, *, layers: int, at_most: int) -> JointGraph:
    """The graph with the peak of `at_most` shares in every layer, and fewer of them in layers that have room."""
    chunks = dict.fromkeys(range(layers), at_most)
    finest = split(chunks)
    peak_bytes = max(alive_bytes(finest), default=0)
    for count in reversed([each for each in range(1, at_most) if at_most % each == 0]):
        needed = _layer_peaks(split(dict.fromkeys(chunks, count)))
        chunks |= {layer: count for layer in chunks if needed.get(layer, 0) <= peak_bytes}
    # Layers hardly depend on each other's shares. Where the mixture needs more after all, the top ones give way.
    while coarser := [layer for layer, count in chunks.items() if count < at_most]:
        found = split(chunks)
        if max(alive_bytes(found), default=0) <= peak_bytes:
            return found
        chunks[max(coarser)] = at_most
    return finest


def _layer_peaks(joint: JointGraph) -> dict[int, int]:
    """Most bytes alive while an operator of each layer runs."""
    found: dict[int, int] = {}
    for node, alive in zip(joint.nodes, alive_bytes(joint), strict=True):
        layer = node.meta["layer"]
        found[layer] = max(found.get(layer, 0), alive)
    return found
