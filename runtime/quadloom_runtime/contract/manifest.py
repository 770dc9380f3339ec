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
# Numbers are bounded so that every JSON reader keeps them exact and sums of them stay integers of 64 bits.
Count = Annotated[int, Field(ge=0, le=2**53)]
Extent = Annotated[int, Field(ge=0, le=2**32)]
LONGEST_SHAPE: Final = 8
GRADIENT_PREFIX: Final = "gradient."
"""Begins the name of the output that is a trained tensor's gradient; the tensor's name follows."""
MOST_COMPANIONS: Final = 16
Text = Annotated[str, StringConstraints(max_length=500)]
Format = Literal["onnx", "executorch", "ort-training"]
ExecutorchBackend = Literal["portable", "xnnpack"]
WeightFormat = Literal["float32", "int8"]
TaskKind = Literal["sequence-classification", "causal-lm"]
LayerIndex = Annotated[int, Field(ge=0, le=10_000)] | Literal["head"]


class Value(BaseModel):
    """Base of every value that travels: immutable, strict about unknown fields, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BlobReference(Value):
    """One file of the family, addressed by its content."""

    path: FamilyPath
    sha256: Sha256
    size_bytes: Count
    # It becomes a header of an answer.
    media_type: str = Field(pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+$", max_length=100)


class ParameterSpec(Value):
    """One row of the parameter table.

    Attributes:
        name: key in the PEFT adapter file, also the name of the graph input.
        shape: shape of the float32 tensor.
        layer: index of the transformer layer counted from the INPUT, or ``"head"``.
        rank: LoRA rank, None for head tensors.
    """

    name: Text
    shape: tuple[Extent, ...] = Field(max_length=LONGEST_SHAPE)
    layer: LayerIndex
    rank: Annotated[int, Field(ge=1, le=100_000)] | None


class TensorSpec(Value):
    """A graph input or output. A None in `shape` is the batch dimension left open."""

    name: Text
    dtype: Literal["float32", "int64", "int32", "bool"]
    shape: tuple[Extent | None, ...] = Field(max_length=LONGEST_SHAPE)


class GradientError(Value):
    """Gradient against another one on a calibration batch, LoRA tensors apart from the head.

    Of a member: its own against that of PyTorch with the weights as they are stored.

    Attributes:
        relative_l2: ||g - r|| / ||r|| over all LoRA tensors together; 0 for a member with q = 0.
        worst_cosine: the smallest per-tensor cosine; 1 for a member with q = 0.
        worst_tensor: the tensor that has it, None when no LoRA tensor trains.
    """

    relative_l2: float = Field(ge=0)
    worst_cosine: float = Field(ge=-1.000001, le=1.000001)
    worst_tensor: Text | None


class PeakItem(Value):
    """One row of the table of what fills the planned peak."""

    what: Text
    layer: LayerIndex | Literal["embeddings"]
    kind: Literal["stash", "transient", "input", "output"]
    size_bytes: Count
    tensors: Count


class MemberKey(Value):
    """What names a member within a family.

    Attributes:
        recompute_percent: multiply-adds of the forward that the backward may repeat, of all; 0 where only the head
            trains.
    """

    depth: int = Field(ge=0, le=10_000)
    quantized_layers: int = Field(ge=0, le=10_000)
    recompute_percent: int = Field(default=0, ge=0, le=100)
    format: Format = "onnx"

    @model_validator(mode="after")
    def _no_more_quantized_than_trained(self) -> "MemberKey":
        if self.quantized_layers > self.depth:
            raise ValueError(f"quantized layers {self.quantized_layers} exceed depth {self.depth}")
        return self

    @property
    def stem(self) -> str:
        """Name within its format, used in file names: ``d06-q04``, and ``d06-q04-r30`` if it may recompute 30 %."""
        recompute = f"-r{self.recompute_percent:02d}" if self.recompute_percent else ""
        return f"d{self.depth:02d}-q{self.quantized_layers:02d}{recompute}"

    @property
    def label(self) -> str:
        """Short name used in messages: its stem, and ``d06-q04-r30 executorch`` for another format than ONNX."""
        return self.stem if self.format == "onnx" else f"{self.stem} {self.format}"


class MemberSpec(Value):
    """One training graph.

    Attributes:
        graph: the graph file (weights are in the format's shared blob).
        companions: further files that this member alone needs, beside the graph.
        arena_bytes: of them, the buffer in which the exporter placed the step's tensors; None for a graph without.
        planned_peak_bytes: peak of one step as the process will see it, weights excluded: what is alive at once, which
            `peak_items` sum up to, gaps between, and what the engine takes beside.
        measured_peak_bytes: peak of one step measured in a fresh process, None when not measured.
        measured_step_s: processor time of one step there, on one thread of the machine that exported.
        stash_bytes_before, stash_bytes_after: what forward leaves for backward, before and after quantization.
        weight_bytes: frozen weights that this graph reads.
        forward_operations, backward_operations: multiply-adds of one step.
        quantized_elements: number of stash elements that are quantized in one step.
        row_chunks: shares in which each layer of the model, from the input on, processes its rows where it is wide.
        peak_items: what fills the planned peak, largest first.
    """

    key: MemberKey
    graph: BlobReference
    companions: tuple[BlobReference, ...] = Field(default=(), max_length=MOST_COMPANIONS)
    arena_bytes: Count | None = None
    planned_peak_bytes: Count
    measured_peak_bytes: Count | None = None
    measured_step_s: Annotated[float, Field(ge=0)] | None = None
    stash_bytes_before: Count
    stash_bytes_after: Count
    weight_bytes: Count
    forward_operations: Count
    backward_operations: Count
    quantized_elements: Count
    row_chunks: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(default=(), max_length=10_000)
    gradient_error: GradientError
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    peak_items: tuple[PeakItem, ...]


class EvaluationSpec(Value):
    """The graph that evaluates the whole model: a member's inputs; outputs loss, counts and a classifier's logits."""

    format: Format
    graph: BlobReference
    planned_peak_bytes: Count
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FormatSpec(Value):
    """What all graphs of one format share: the weights and the format's own version numbers.

    Attributes:
        backend: what the programs of ExecuTorch need beside its own kernels, None for other formats.
        optimizer: a graph that updates parameters, for devices that have no optimizer of their own.
    """

    format: Format
    weights: BlobReference
    versions: dict[Text, Count]
    backend: ExecutorchBackend | None = None
    optimizer: BlobReference | None = None


class ModelSpec(Value):
    """Where the weights came from. `layers` is the number of transformer layers."""

    source: Text
    architecture: Text
    layers: int = Field(ge=1, le=10_000)
    parameters: Count


class TaskSpec(Value):
    """What is trained.

    Attributes:
        kind: ``sequence-classification`` tells the class of a text, ``causal-lm`` each next token of it.
        num_labels: of a classification alone: labels are class indices 0..num_labels-1.
    """

    kind: TaskKind
    num_labels: Annotated[int, Field(ge=2, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _labels_where_there_are_classes(self) -> "TaskSpec":
        if (self.num_labels is not None) != (self.kind == "sequence-classification"):
            raise ValueError(f"num_labels is {self.num_labels} for the task {self.kind}")
        return self


class LoraSpec(Value):
    """The LoRA recipe, in PEFT's terms; `target_modules` are module names relative to the model."""

    rank: int = Field(ge=1, le=100_000)
    alpha: float = Field(gt=0)
    target_modules: tuple[Text, ...]


class BatchSpec(Value):
    """Static shape of one batch; a short batch is padded with rows that the loss ignores (label -100)."""

    batch_size: int = Field(ge=1, le=65_536)
    sequence_length: int = Field(ge=2, le=1_048_576)


class StashKind(Value):
    """How one kind of stashed tensor, named by the weights and the operator that made it, is quantized in some layers.

    `relative_l2` is the gradient error that it causes there alone, as predicted.
    """

    kind: Text
    layers: tuple[Annotated[int, Field(ge=0, le=10_000)], ...] = Field(max_length=10_000)
    bits: Literal[4, 8]
    group_size: int = Field(ge=1, le=1_048_576)
    relative_l2: float = Field(ge=0)


class StashSpec(Value):
    """How a stash is quantized: bits per element and elements per scale.

    Attributes:
        bits: ``auto`` where each tensor has the fewest that an error budget allows.
        group_size: of what `kinds` does not name.
        error_budget: largest relative L2 of the LoRA gradients at the deepest member with all layers quantized, the one
            that recomputes least.
        kinds: what was chosen within the budget.
    """

    bits: Literal[4, 8, "auto"]
    group_size: int = Field(ge=1, le=1_048_576)
    error_budget: Annotated[float, Field(gt=0, lt=1)] | None = None
    kinds: tuple[StashKind, ...] = Field(default=(), max_length=10_000)


class FamilyManifest(Value):
    """Everything about a family.

    Attributes:
        exporter_sha256: digest of the exporter's code: two exports by the same code give the same members.
        weights: how the frozen linear weights of the layers are stored; ``int8`` is per output channel, symmetric, and
            computes in float32. All other tensors are float32.
        rounding_error: what that does to the gradient at full depth: with stored against with original weights, None
            when nothing is rounded, or not measured yet.
        missing: members that were planned but are not exported yet.
        single_file: one ExecuTorch program with every member (``train_d06_q04_r30``), ``eval`` and ``adamw``, weights
            included, for loaders that take no data file.
    """

    schema_version: Literal[1] = MANIFEST_SCHEMA_VERSION
    quadloom_version: Text
    exporter_sha256: Sha256
    model: ModelSpec
    task: TaskSpec
    lora: LoraSpec
    batch: BatchSpec
    stash: StashSpec
    weights: WeightFormat = "float32"
    rounding_error: GradientError | None = None
    dropout: float
    parameters: tuple[ParameterSpec, ...]
    formats: tuple[FormatSpec, ...]
    members: tuple[MemberSpec, ...]
    evaluation: tuple[EvaluationSpec, ...]
    adapter: tuple[BlobReference, ...]
    tokenizer: tuple[BlobReference, ...]
    missing: tuple[MemberKey, ...] = ()
    single_file: BlobReference | None = None

    def trained_parameters(self, depth: int) -> tuple[ParameterSpec, ...]:
        """Rows of the parameter table that a member of this depth trains: its layers' adapters and the head."""
        first = self.model.layers - depth
        return tuple(row for row in self.parameters if row.layer == "head" or row.layer >= first)

    def every_blob(self) -> tuple[BlobReference, ...]:
        """Every mention of a file."""
        found = [*self.adapter, *self.tokenizer]
        found += [blob for each in self.formats for blob in (each.weights, each.optimizer) if blob is not None]
        found += [] if self.single_file is None else [self.single_file]
        found += [each.graph for each in self.evaluation]
        found += [blob for each in self.members for blob in (each.graph, *each.companions)]
        return tuple(found)

    def blobs(self) -> tuple[BlobReference, ...]:
        """Every file of the family, each once."""
        return tuple({blob.path: blob for blob in self.every_blob()}.values())

    def files_for(self, member: MemberSpec) -> tuple[BlobReference, ...]:
        """What a device fetches to train `member`: graph, what goes with it, weights, tokenizer."""
        return (member.graph, *member.companions, self.format_spec(member.key.format).weights, *self.tokenizer)

    def format_spec(self, name: Format) -> FormatSpec:
        """The shared part of one format; KeyError when the family does not hold it."""
        return {each.format: each for each in self.formats}[name]
