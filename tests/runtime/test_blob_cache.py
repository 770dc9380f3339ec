import hashlib
import os
from pathlib import Path

import pytest

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.contract.manifest import BlobReference
from quadloom_runtime.errors import QuadloomError


def reference(content: bytes, path: str = "onnx/weights.bin") -> BlobReference:
    sha256 = hashlib.sha256(content).hexdigest()
    return BlobReference(path=path, sha256=sha256, size_bytes=len(content), media_type="application/octet-stream")


def put(cache: BlobCache, content: bytes) -> BlobReference:
    blob = reference(content)
    partial = cache.partial_path(blob.sha256)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(content)
    assert cache.accept_partial(blob.sha256)
    return blob


def test_a_finished_download_gets_its_name_only_when_the_content_is_right(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    blob = reference(b"right")
    partial = cache.partial_path(blob.sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"wrong")
    assert not cache.accept_partial(blob.sha256)
    assert not cache.holds(blob.sha256)
    assert not partial.exists(), "a wrong download must not be continued"
    put(cache, b"right")
    assert cache.holds(blob.sha256)
    assert cache.path(blob.sha256) == tmp_path / blob.sha256[:2] / blob.sha256


def test_a_partial_download_is_not_held(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    blob = reference(b"half of it")
    cache.partial_path(blob.sha256).parent.mkdir(parents=True)
    cache.partial_path(blob.sha256).write_bytes(b"half")
    assert not cache.holds(blob.sha256)


def test_an_altered_blob_is_dropped_when_it_is_asked_for(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    blob = put(cache, b"content")
    cache.path(blob.sha256).write_bytes(b"contenT")
    assert not cache.holds(blob.sha256)
    assert not cache.path(blob.sha256).exists()


def test_only_the_named_blobs_are_kept_and_their_unfinished_downloads(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    kept, other = put(cache, b"kept"), put(cache, b"other")
    growing, abandoned = (cache.partial_path(reference(content).sha256) for content in (b"growing", b"abandoned"))
    for path in (growing, abandoned):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    cache.keep_only({kept.sha256, reference(b"growing").sha256})
    assert cache.holds(kept.sha256)
    assert not cache.path(other.sha256).exists()
    assert growing.exists()
    assert not abandoned.exists()


def test_a_link_shares_the_disk_space_of_the_cache(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs")
    blob = put(cache, b"weights")
    target = cache.link_into(tmp_path / "family", blob)
    assert target == tmp_path / "family" / "onnx" / "weights.bin"
    assert target.samefile(cache.path(blob.sha256))


def test_linking_again_leaves_nothing_else_behind(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs")
    blob = put(cache, b"weights")
    for _ in range(2):
        cache.link_into(tmp_path / "family", blob)
    assert [path.name for path in (tmp_path / "family" / "onnx").iterdir()] == ["weights.bin"]


def test_linking_replaces_a_file_of_another_content(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs")
    old, new = put(cache, b"old"), put(cache, b"new")
    cache.link_into(tmp_path / "family", old)
    assert cache.link_into(tmp_path / "family", new).read_bytes() == b"new"
    assert cache.path(old.sha256).read_bytes() == b"old"


def test_where_links_are_impossible_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    cache = BlobCache(tmp_path / "blobs")
    target = cache.link_into(tmp_path / "family", put(cache, b"weights"))
    assert target.read_bytes() == b"weights"


def test_linking_what_is_not_held_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(QuadloomError, match=r"onnx/weights\.bin"):
        BlobCache(tmp_path / "blobs").link_into(tmp_path / "family", reference(b"never fetched"))
