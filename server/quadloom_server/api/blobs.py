"""GET and HEAD of blobs: files of the family, the manifest, and the adapters of the rounds, by their SHA-256."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from quadloom_runtime.crash_points import reach
from quadloom_server.adapters import MEDIA_TYPE as ADAPTER_MEDIA_TYPE
from quadloom_server.api.authentication import signature_of
from quadloom_server.api.byte_range import requested_range
from quadloom_server.errors import RefusedRequestError
from quadloom_server.family import ServedFamily
from quadloom_server.state import ServerState
from quadloom_server.store.tables import RankedAdapter, Round

# One chunk is held per download under way, and there may be many.
CHUNK_BYTES = 1 << 16
# A blob's address is the hash of its content, so whoever has it once never needs to ask again.
CACHE_CONTROL = "public, max-age=31536000, immutable"


def _answer(description: str, *headers: str) -> dict[str, Any]:
    return {"description": description, "headers": {name: {"schema": {"type": "string"}} for name in headers}}


_BYTES: dict[str, Any] = {"content": {"*/*": {}}}
_CACHING = ("ETag", "Cache-Control", "Accept-Ranges")
BLOB_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _answer("The whole blob, in its own media type.", *_CACHING, "Content-Length") | _BYTES,
    206: _answer("The range that was asked for.", *_CACHING, "Content-Length", "Content-Range") | _BYTES,
    304: _answer("The blob is as the client has it.", *_CACHING),
}


@dataclass(frozen=True)
class StoredBlob:
    """A file that may be served."""

    path: Path
    size_bytes: int
    media_type: str


class BlobCatalogue:
    """Which hashes are served, and from where. Updates of devices are not among them."""

    def __init__(self, family: ServedFamily, state: ServerState) -> None:
        self._state = state
        self._fixed = {
            each.sha256: StoredBlob(family.folder / each.path, each.size_bytes, each.media_type)
            for each in family.manifest.blobs()
        }
        self._fixed[family.manifest_sha256] = StoredBlob(
            state.blobs.path(family.manifest_sha256), len(family.content), "application/json"
        )

    def find(self, sha256: str) -> StoredBlob:
        """The file behind a hash.

        Raises:
            RefusedRequestError: 404, no such blob.
        """
        found = self._fixed.get(sha256) or self._adapter(sha256)
        if found is None or not found.path.is_file():
            raise RefusedRequestError(
                f"no blob has the SHA-256 {sha256!r}",
                remedy="check in again: the assignment names the blobs that this server has",
                code="unknown-blob",
                http_status=404,
            )
        return found

    def _adapter(self, sha256: str) -> StoredBlob | None:
        with self._state.sessions() as session:
            row = session.scalar(select(Round).where(Round.adapter_sha256 == sha256).limit(1))
            if row is not None and row.adapter_size_bytes is not None:
                path = self._state.adapters.tensors_path(row.number)
                return StoredBlob(path, row.adapter_size_bytes, ADAPTER_MEDIA_TYPE)
            ranked = session.scalar(select(RankedAdapter).where(RankedAdapter.sha256 == sha256).limit(1))
            if ranked is not None:
                return StoredBlob(self._state.blobs.path(sha256), ranked.size_bytes, ADAPTER_MEDIA_TYPE)
            return None


def blob_routes(catalogue: BlobCatalogue) -> APIRouter:
    """The routes of blobs."""
    router = APIRouter(dependencies=[Depends(signature_of)])

    @router.head("/v1/blobs/{sha256}", response_class=Response, include_in_schema=False)
    @router.get("/v1/blobs/{sha256}", response_class=Response, responses=BLOB_ANSWERS)
    def get_blob(
        request: Request,
        sha256: str,
        range_header: Annotated[str | None, Header(alias="Range")] = None,
        if_none_match: Annotated[str | None, Header()] = None,
        if_range: Annotated[str | None, Header()] = None,
    ) -> Response:
        blob = catalogue.find(sha256)
        etag = f'"{sha256}"'
        headers = {"ETag": etag, "Cache-Control": CACHE_CONTROL, "Accept-Ranges": "bytes"}
        if if_none_match is not None and _matches(if_none_match, etag):
            return Response(status_code=304, headers=headers)
        wanted = None
        if request.method == "GET" and if_range in (None, etag):
            wanted = requested_range(range_header, blob.size_bytes)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{blob.size_bytes}"
        part = range(blob.size_bytes) if wanted is None else wanted
        headers["Content-Length"] = str(len(part))
        return StreamingResponse(
            _read(blob.path, part) if request.method == "GET" else iter(()),
            status_code=200 if wanted is None else 206,
            headers=headers,
            media_type=blob.media_type,
        )

    return router


def _matches(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags


def _read(path: Path, part: range) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(part.start)
        left = len(part)
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
            if left:
                reach("blob-half-served")
