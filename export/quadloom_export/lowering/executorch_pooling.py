"""XNNPACK's maximum pooling, called on a tensor as it lies in memory.

XNNPACK pools images whose channels lie together, all channels at once. ExecuTorch's own lowering first turns an image
from channels in front, by a buffer outside the arena; here the operator is written down for XNNPACK directly.
"""

from typing import Any

IS_INPUT, IS_OUTPUT = 1, 2
INPUT, OUTPUT = 0, 1


def column_maximum_call(rows: int, columns: int) -> bytes:
    """``(1, 1, rows, columns)`` -> ``(1, 1, 1, columns)``, the largest of each column, for XNNPACK.

    An image of one row of pixels, whose channels are the columns, becomes one pixel.
    """
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
        ConstantDataOffset,
        XNNGraph,
        XNNMaxPooling2d,
        XNode,
    )
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary

    pooling = XNNMaxPooling2d(
        padding_top=0,
        padding_right=0,
        padding_bottom=0,
        padding_left=0,
        pooling_height=1,
        pooling_width=rows,
        stride_height=1,
        stride_width=rows,
        dilation_height=1,
        dilation_width=1,
        input_id=INPUT,
        output_id=OUTPUT,
        flags=0,
    )
    graph = XNNGraph(
        version="0",
        xnodes=[XNode(xnode_union=pooling, debug_handle=0)],
        xvalues=[_image(INPUT, rows, columns, IS_INPUT), _image(OUTPUT, 1, columns, IS_OUTPUT)],
        num_externs=2,
        input_ids=[INPUT],
        output_ids=[OUTPUT],
        constant_data=[ConstantDataOffset(0, 0)],
    )
    return bytes(serialize_xnnpack_binary(graph, bytearray()))


def _image(number: int, pixels: int, channels: int, flags: int) -> Any:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNDatatype, XNNTensorValue, XValue

    value = XNNTensorValue(
        datatype=XNNDatatype.xnn_datatype_fp32,
        num_dims=4,
        dims=[1, 1, pixels, channels],
        constant_buffer_idx=0,
        external_id=number,
        flags=flags,
        id_out=number,
    )
    return XValue(value)
