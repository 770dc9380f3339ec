"""Make ONNX Runtime's DEFAULT execution order the order that the passes decided on.

DEFAULT order is a reverse depth-first walk from the leaves (nodes that nothing consumes): the leaf with the highest
index first, and of a node's producers the one with the highest index first (`GraphViewer` and `Graph::ReverseDFSFrom`
in onnxruntime/core/graph). A phone gets this order whatever the file says. Two measures turn it into the file order:

1. a node that its successor does not consume gets a leaf of its own, a `Shape` that costs nothing;
2. all leaves stand at the end of the file in the reverse of the wanted order.

Then the walk visits the leaves in the wanted order, and each leaf finds every earlier node already executed.
"""

from onnx import NodeProto, helper


def lay_out(nodes: list[NodeProto]) -> list[NodeProto]:
    """Order `nodes`, given in the wanted execution order, for a file; adds the `Shape` leaves."""
    consumed = {name for node in nodes for name in node.input}
    body: list[NodeProto] = []
    leaves: list[NodeProto] = []
    for position, node in enumerate(nodes):
        if not any(name in consumed for name in node.output):
            leaves.append(node)
            continue
        body.append(node)
        following = nodes[position + 1] if position + 1 < len(nodes) else None
        if following is None or not any(name in following.input for name in node.output):
            name = next(name for name in node.output if name)
            leaves.append(helper.make_node("Shape", [name], [f"{name}/order"], name=f"{name}/order"))
    return body + leaves[::-1]


def default_execution_order(nodes: list[NodeProto]) -> list[int]:
    """Indices of `nodes` in the order in which ONNX Runtime runs them by default."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    consumed = {name for node in nodes for name in node.input}
    leaves = [index for index, node in enumerate(nodes) if not any(name in consumed for name in node.output)]
    order: list[int] = []
    visited: set[int] = set()
    # (node, whether its producers have been pushed); the last pushed is visited first.
    stack = [(index, False) for index in sorted(leaves)]
    while stack:
        index, expanded = stack.pop()
        if expanded:
            order.append(index)
            continue
        if index in visited:
            continue
        visited.add(index)
        stack.append((index, True))
        producers = sorted({producer[name] for name in nodes[index].input if name in producer})
        stack.extend((each, False) for each in producers if each not in visited)
    return order
