"""The adapter of each round as devices get it: as it is, or at a lower rank."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from quadloom_runtime.adapter_file import read_parameters, tensors_bytes
from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.contract.manifest import BlobReference
from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.adapters import FOR_PEFT, MEDIA_TYPE
from quadloom_server.aggregation.averaging import Averaging
from quadloom_server.state import ServerState
from quadloom_server.store.queries import ranks_assigned
from quadloom_server.store.tables import RankedAdapter


@dataclass(frozen=True)
class DeviceAdapters:
    """Gives devices what they start from, and aggregation what they started from.

    One of a lower rank is a blob that is made once and kept, as the adapters of all rounds are: making it again might
    round differently.
    """

    state: ServerState
    averaging: Averaging

    def reference(self, session: Session, number: int, rank: int) -> BlobReference:
        """The adapter after round `number` at this rank.

        Raises:
            WrongRankError: the task's aggregation has no adapter of this rank.
        """
        if rank == self.averaging.rank:
            return self.state.adapters.reference(number)
        row = session.get(RankedAdapter, (number, rank)) or self.keep(session, number, rank, self.content(number, rank))
        path = f"adapters/round-{number:04d}-rank-{rank}.safetensors"
        return BlobReference(path=path, sha256=row.sha256, size_bytes=row.size_bytes, media_type=MEDIA_TYPE)

    def read(self, number: int, rank: int) -> dict[str, FloatArray]:
        """The tensors that a device of this rank was given after round `number`, every row of the parameter table.

        Raises:
            QuadloomError: they are damaged.
        """
        if rank == self.averaging.rank:
            return self.state.adapters.read(number)
        with self.state.sessions() as session:
            sha256 = session.get_one(RankedAdapter, (number, rank)).sha256
        rows = rows_at_rank(self.averaging.manifest.parameters, rank)
        return read_parameters(self.state.blobs.checked_path(sha256), rows, remedy="restore the state folder")

    def content(self, number: int, rank: int) -> bytes:
        """The adapter after round `number` brought to a lower rank, as safetensors; small matrices are decomposed.

        Raises:
            WrongRankError: the task's aggregation has no adapter of this rank.
        """
        return tensors_bytes(self.averaging.method().at_rank(self.state.adapters.read(number), rank), FOR_PEFT)

    def lower_ranks(self, number: int) -> dict[int, bytes]:
        """`content` by rank, for those that devices had in this round and will ask for in the next."""
        with self.state.sessions() as session:
            ranks = ranks_assigned(session, number) - {self.averaging.rank}
        return {rank: self.content(number, rank) for rank in sorted(ranks)}

    def keep(self, session: Session, number: int, rank: int, content: bytes) -> RankedAdapter:
        """Store what `content` made; it is on the disk before the transaction ends."""
        row = RankedAdapter(
            round_number=number, rank=rank, sha256=self.state.blobs.put(content), size_bytes=len(content)
        )
        session.add(row)
        session.flush()
        return row
