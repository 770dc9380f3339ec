"""The family manifest: what an exporter promises and what server and devices rely on.

Values only, schema-versioned; reading and writing them is `load_manifest` and `save_manifest` in `family_folder.py`.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MANIFEST_SCHEMA_VERSION: Final = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A path inside the family folder: relative, forward slashes, no parent steps, nothing a shell or Windows would misread.
FamilyPath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", max_length=200)
]
Format = Literal["onnx", "executorch", "ort-training"]
LayerIndex = Annotated[int, Field(ge=0)] | Literal["head"]


class Value(BaseModel):
    """Base of every value that travels: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BlobReference(Value):
    """One file of the family, addressed by its content."""

    path: FamilyPath
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    media_type: str


class ParameterSpec(Value):
    """One row of the parameter table.

    Attributes:
        name: key in the PEFT adapter file, also the name of the graph input.
        shape: shape of the float32 tensor.
        layer: index of the transformer layer counted from the INPUT, or ``"head"``.
        rank: LoRA rank, None for head tensors.
    """

    name: str
    shape: tuple[int, ...]
    layer: LayerIndex
    rank: int | None


class TensorSpec(Value):
    """A graph input or output. A None in `shape` is the batch dimension left open."""

    name: str
    dtype: Literal["float32", "int64", "int32", "bool"]
    shape: tuple[int | None, ...]


class GradientError(Value):
    """Gradient against the float32 graph on a calibration batch, LoRA tensors apart from the head.

    Attributes:
        relative_l2: ||g - g32|| / ||g32|| over all LoRA tensors together; 0 for q = 0.
        worst_cosine: the smallest per-tensor cosine; 1 for q = 0.
        worst_tensor: the tensor that has it, None when no LoRA tensor trains.
    """

    relative_l2: float = Field(ge=0)
    worst_cosine: float = Field(ge=-1.000001, le=1.000001)
    worst_tensor: str | None


class PeakItem(Value):
    """One row of the table of what fills the planned peak."""

    what: str
    layer: LayerIndex | Literal["embeddings"]
    kind: Literal["stash", "transient", "input", "output"]
    size_bytes: int
    tensors: int


class MemberKey(Value):
    """What names a member within a family."""

    depth: int = Field(ge=0)
    quantized_layers: int = Field(ge=0)
    format: Format = "onnx"

    @model_validator(mode="after")
    def _no_more_quantized_than_trained(self) -> "MemberKey":
        if self.quantized_layers > self.depth:
            raise ValueError(f"quantized layers {self.quantized_layers} exceed depth {self.depth}")
        return self

    @property
    def label(self) -> str:
        """Short name used in file names and messages, e.g. ``d06-q04``."""
        return f"d{self.depth:02d}-q{self.quantized_layers:02d}"


class MemberSpec(Value):
    """One training graph.

    Attributes:
        graph: the graph file (weights are in the format's shared blob).
        planned_peak_bytes: peak of one step as the engine's allocator will see it, weights excluded: what is alive at
            once, which `peak_items` sum up to, and the allocator's fragmentation.
        measured_peak_bytes: peak of one step measured in a fresh process, None when not measured.
        stash_bytes_before, stash_bytes_after: what forward leaves for backward, before and after quantization.
        weight_bytes: frozen weights that this graph reads.
        forward_operations, backward_operations: multiply-adds of one step.
        quantized_elements: number of stash elements that are quantized in one step.
        peak_items: what fills the planned peak, largest first.
    """

    key: MemberKey
    graph: BlobReference
    planned_peak_bytes: int
    measured_peak_bytes: int | None = None
    stash_bytes_before: int
    stash_bytes_after: int
    weight_bytes: int
    forward_operations: int
    backward_operations: int
    quantized_elements: int
    gradient_error: GradientError
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    peak_items: tuple[PeakItem, ...]


class EvaluationSpec(Value):
    """The graph that evaluates the whole model: same inputs as a member, outputs loss, counts and logits."""

    format: Format
    graph: BlobReference
    planned_peak_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FormatSpec(Value):
    """What all graphs of one format share: the weights and the format's own version numbers."""

    format: Format
    weights: BlobReference
    versions: dict[str, int]


class ModelSpec(Value):
    """Where the weights came from. `layers` is the number of transformer layers."""

    source: str
    architecture: str
    layers: int = Field(ge=1)
    parameters: int


class TaskSpec(Value):
    """What is trained. Labels are class indices 0..num_labels-1."""

    kind: Literal["sequence-classification"]
    num_labels: int = Field(ge=2)


class LoraSpec(Value):
    """The LoRA recipe, in PEFT's terms; `target_modules` are module names relative to the model."""

    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    target_modules: tuple[str, ...]


class BatchSpec(Value):
    """Static shape of one batch; a short batch is padded with rows that the loss ignores (label -100)."""

    batch_size: int = Field(ge=1)
    sequence_length: int = Field(ge=2)


class StashSpec(Value):
    """How a stash is quantized: bits per element and elements per scale."""

    bits: Literal[4, 8]
    group_size: int = Field(ge=1)


class FamilyManifest(Value):
    """Everything about a family. `missing` names members that were planned but are not exported yet."""

    schema_version: Literal[1] = MANIFEST_SCHEMA_VERSION
    quadloom_version: str
    model: ModelSpec
    task: TaskSpec
    lora: LoraSpec
    batch: BatchSpec
    stash: StashSpec
    dropout: float
    parameters: tuple[ParameterSpec, ...]
    formats: tuple[FormatSpec, ...]
    members: tuple[MemberSpec, ...]
    evaluation: tuple[EvaluationSpec, ...]
    adapter: tuple[BlobReference, ...]
    tokenizer: tuple[BlobReference, ...]
    missing: tuple[MemberKey, ...] = ()

    def trained_parameters(self, depth: int) -> tuple[ParameterSpec, ...]:
        """Rows of the parameter table that a member of this depth trains: its layers' adapters and the head."""
        first = self.model.layers - depth
        return tuple(row for row in self.parameters if row.layer == "head" or row.layer >= first)

    def blobs(self) -> tuple[BlobReference, ...]:
        """Every file of the family, each once."""
        found = [*self.adapter, *self.tokenizer]
        found += [each.weights for each in self.formats]
        found += [each.graph for each in self.evaluation]
        found += [each.graph for each in self.members]
        return tuple({blob.path: blob for blob in found}.values())

    def files_for(self, member: MemberSpec) -> tuple[BlobReference, ...]:
        """What a device fetches to train `member`: graph, weights, tokenizer."""
        return (member.graph, self.format_spec(member.key.format).weights, *self.tokenizer)

    def format_spec(self, name: Format) -> FormatSpec:
        """The shared part of one format; KeyError when the family does not hold it."""
        return {each.format: each for each in self.formats}[name]
