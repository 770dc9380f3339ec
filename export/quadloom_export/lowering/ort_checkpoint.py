"""The checkpoint file of `onnxruntime.training.api`, written without that package.

The package's own writer comes with the training package alone, which cannot be installed beside the plain one. The file
is a small flatbuffer, so one export can make every format. Its schema, as far as it is used here
(onnxruntime/core/flatbuffers/schema/ort_training_checkpoint.fbs and ort.fbs), with the slot of each field:

    Checkpoint   0 version: int32, 1 module_state: ModuleState
    ModuleState  0 requires_grad_params: [Tensor], 1 frozen_params: [Tensor]
    Tensor       0 name: string, 2 dims: [int64], 3 data_type: int32, 4 raw_data: [uint8]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from quadloom_runtime.durable_files import write_atomically

FloatArrays = Mapping[str, NDArray[np.float32]]

IDENTIFIER = b"ODTC"
VERSION = 2
"""Of the checkpoint's schema, as onnxruntime-training 1.19 reads and writes it."""
OFFSET_BYTES = 4


def save_checkpoint(path: Path, *, trained: FloatArrays, untrained: FloatArrays) -> None:
    """Write the parameters of a module.

    Args:
        trained: what has a gradient and is updated by the optimizer.
        untrained: what the graph only reads.
    """
    write_atomically(path, checkpoint_bytes(trained=trained, untrained=untrained))


def checkpoint_bytes(*, trained: FloatArrays, untrained: FloatArrays) -> bytes:
    """The content of the file; the same parameters give the same bytes."""
    builder = flatbuffers.Builder(4096)
    groups = [_tensors(builder, each) for each in (trained, untrained)]
    builder.StartObject(4)
    for slot, group in enumerate(groups):
        builder.PrependUOffsetTRelativeSlot(slot, group, 0)
    state = builder.EndObject()
    builder.StartObject(4)
    builder.PrependInt32Slot(0, VERSION, 0)
    builder.PrependUOffsetTRelativeSlot(1, state, 0)
    builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _tensors(builder: Any, arrays: FloatArrays) -> int:
    """A vector of tensors; returns where it lies."""
    tensors = [_tensor(builder, name, value) for name, value in arrays.items()]
    builder.StartVector(OFFSET_BYTES, len(tensors), OFFSET_BYTES)
    for each in reversed(tensors):  # a flatbuffer grows towards its beginning
        builder.PrependUOffsetTRelative(each)
    return int(builder.EndVector())


def _tensor(builder: Any, name: str, value: NDArray[np.float32]) -> int:
    where = {
        0: builder.CreateString(name),
        2: builder.CreateNumpyVector(np.asarray(value.shape, dtype=np.int64)),
        4: builder.CreateByteVector(np.ascontiguousarray(value, dtype=np.float32).tobytes()),
    }
    builder.StartObject(7)
    for slot, offset in where.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    builder.PrependInt32Slot(3, TensorProto.FLOAT, 0)
    return int(builder.EndObject())
