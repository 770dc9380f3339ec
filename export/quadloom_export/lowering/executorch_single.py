"""Everything in one program, for loaders that take no data file: Android's ``Module.load(path)``.

The weights lie in the program once, whatever the number of methods, and are mapped from the file. Every method has an
arena of its own, which the runtime allocates when that method is loaded; so a program may hold members of every size
and a device pays for the one that it calls.
"""

from collections.abc import Mapping

from quadloom_export.graph import JointGraph
from quadloom_export.lowering.executorch import ArenaPlanner, assemble, exported
from quadloom_export.lowering.executorch_adamw import METHOD, exported_adamw, flat_length
from quadloom_runtime.contract.manifest import ExecutorchBackend, MemberKey

EVALUATION_METHOD = "eval"


def method_name(key: MemberKey) -> str:
    """Of a member's training graph, e.g. ``train_d06_q04_r30``."""
    return f"train_{key.stem.replace('-', '_')}"


def single_file(graphs: Mapping[str, JointGraph], *, backend: ExecutorchBackend = "portable") -> bytes:
    """Content of a ``.pte`` file with one method per graph, under its name, and ``adamw`` for all their parameters.

    Args:
        backend: as in `lower_to_executorch`.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    length = max(flat_length(graph.parameters) for graph in graphs.values())
    methods = {name: exported(graph, backend=backend) for name, graph in graphs.items()} | {
        METHOD: exported_adamw(length)
    }
    program = assemble(methods, {name: ArenaPlanner() for name in methods}, weights_tag=None)
    return bytes(program.buffer)
