"""Manifests that lie, contradict themselves or reach outside: each refused with what is wrong, never with a crash."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import (
    LARGEST_MANIFEST_BYTES,
    InvalidManifestError,
    altered_files,
    load_manifest,
    manifest_bytes,
    parse_manifest,
)

Family = tuple[Path, FamilyManifest]
Fields = dict[str, Any]
Change = Callable[[Fields], object]


def changed(manifest: FamilyManifest, change: Change) -> bytes:
    fields = json.loads(manifest_bytes(manifest))
    change(fields)
    return json.dumps(fields).encode()


def refused(content: bytes, problem: str) -> None:
    with pytest.raises(InvalidManifestError, match=problem) as raised:
        parse_manifest(content, source="the manifest")
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../outside",
        "onnx/../../outside",
        "onnx/..",
        "./onnx/weights.bin",
        "onnx//weights.bin",
        "onnx/",
        "",
        "..\\outside",
        "onnx\\weights.bin",
        "C:/windows",
        "C:weights.bin",
        "weights\x00.bin",
        "weights.bin\n",
        ".hidden",
        "~/weights.bin",
        "-rf",
        "wei ghts",
        "$HOME",
        "\u202ebin.exe",
        "w\u00e9ights.bin",
        "a" * 201,
    ],
)
def test_a_path_that_leaves_the_folder_or_hides_in_it_is_refused(family: Family, path: str) -> None:
    for place in ("tokenizer", "adapter"):
        refused(changed(family[1], lambda fields, place=place: fields[place][0].update(path=path)), f"{place}.0.path")
    refused(changed(family[1], lambda fields: fields["members"][0]["graph"].update(path=path)), "members.0.graph.path")
    refused(changed(family[1], lambda fields: fields["formats"][0]["weights"].update(path=path)), "weights.path")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("onnx/weights.bin", "name different files"),
        ("ONNX/Weights.BIN", "name different files"),
        ("family.json", "is the manifest's own"),
        ("FAMILY.JSON.sig", "is the manifest's own"),
        ("family.json/tokenizer.json", "goes through another file"),
        ("onnx/weights.bin/tokenizer.json", "goes through another file"),
        ("onnx", "goes through another file"),
        ("tokenizer/nul", "none on every system"),
        ("tokenizer/COM1.json", "none on every system"),
        ("tokenizer./tokenizer.json", "none on every system"),
    ],
)
def test_paths_that_some_disk_would_mix_up_are_refused(family: Family, path: str, problem: str) -> None:
    refused(changed(family[1], lambda fields: fields["tokenizer"][0].update(path=path)), problem)


def first_member(fields: Fields) -> Fields:
    found: Fields = fields["members"][0]
    return found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda fields: fields["members"].append(fields["members"][0]), "the member .* is there 2 times"),
        (lambda fields: fields["formats"].append(fields["formats"][0]), "the format 'onnx' is there 2 times"),
        (lambda fields: fields["parameters"].append(fields["parameters"][0]), "the parameter .* is there 2 times"),
        (lambda fields: first_member(fields)["key"].update(format="executorch"), "for which there are no weights"),
        (lambda fields: first_member(fields)["key"].update(depth=7), "deeper than the model's 1 layers"),
        (lambda fields: fields["parameters"][0].update(layer=1), "lies in layer 1 of 1"),
        (lambda fields: first_member(fields)["key"].update(quantized_layers=9), "exceed depth"),
        (lambda fields: fields["model"].update(layers=0), "model.layers"),
        (lambda fields: fields["lora"].update(rank=-1), "lora.rank"),
        (lambda fields: fields["batch"].update(batch_size=10**12), "batch.batch_size"),
        (lambda fields: first_member(fields).update(planned_peak_bytes=-1), "planned_peak_bytes"),
        (lambda fields: first_member(fields).update(planned_peak_bytes=10**30), "planned_peak_bytes"),
        (lambda fields: fields["parameters"][0].update(shape=[10**12]), "parameters.0.shape"),
        (lambda fields: fields["parameters"][0].update(shape=[1] * 9), "parameters.0.shape"),
        (lambda fields: fields["tokenizer"][0].update(sha256="0" * 63), "tokenizer.0.sha256"),
        (lambda fields: fields["tokenizer"][0].update(sha256="../" * 22), "tokenizer.0.sha256"),
        (lambda fields: fields["tokenizer"][0].update(media_type="a/b\r\nSet-Cookie: x"), "media_type"),
        (lambda fields: fields.update(surprise=1), "'surprise': Extra inputs"),
        (lambda fields: fields.update({"\x1b[2J": 1}), r"'\\x1b\[2J': Extra inputs"),
        (lambda fields: fields.pop("members"), "'members': Field required"),
        (lambda fields: fields["model"].update(source="x" * 501), "model.source"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_by_name(family: Family, change: Change, problem: str) -> None:
    refused(changed(family[1], change), problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value"),
        (b"[]", "it is no object"),
        (b"null", "it is no object"),
        (b"[" * 100_000, "nests deeper"),
        (b'{"a":' * 100_000, "nests deeper"),
        (b'{"schema_version": 1, "schema_version": 1}', "names 'schema_version' twice"),
        (b'{"schema_version": NaN}', "holds NaN"),
        (b'{"schema_version": 1, "dropout": 1e999}', "holds 1e999"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "integer string conversion"),
        (b'{"schema_version": 1}' + b" " * LARGEST_MANIFEST_BYTES, "more than"),
        (b"\x1f\x8b\x08 gzip", "decode"),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(content: bytes, problem: str) -> None:
    refused(content, problem)


def test_a_huge_manifest_is_not_read_whole(family: Family) -> None:
    folder, _ = family
    with (folder / "family.json").open("wb") as file:
        file.truncate(1 << 40)  # a sparse file: reading it whole would end the process
    with pytest.raises(InvalidManifestError, match="more than"):
        load_manifest(folder)


@pytest.mark.parametrize("linked", ["tokenizer/tokenizer.json", "tokenizer"])
def test_a_symbolic_link_in_a_family_is_not_followed(family: Family, tmp_path: Path, linked: str) -> None:
    folder, manifest = family
    elsewhere = tmp_path / "elsewhere"
    (folder / linked).rename(elsewhere)
    (folder / linked).symlink_to(elsewhere)
    assert altered_files(folder, manifest) == ["tokenizer/tokenizer.json: a symbolic link, which may lead anywhere"]


def test_the_family_folder_itself_may_be_reached_through_a_link(family: Family, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(family[0])
    assert altered_files(tmp_path / "link", family[1]) == []


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.sampled_from(["..", "/", "\x00", -1, 2**63, 10**400, 1e308]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in steps for found in places(each, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = junk
    return None


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_junk_in_any_place_gives_a_manifest_or_a_refusal(family: Family, data: st.DataObject) -> None:
    fields = json.loads(manifest_bytes(family[1]))
    path = data.draw(st.sampled_from(places(fields)))
    replaced = put(fields, path, data.draw(JUNK))
    content = json.dumps(fields if path else replaced).encode()
    try:
        manifest = parse_manifest(content, source="it")
    except QuadloomError:
        return
    assert parse_manifest(manifest_bytes(manifest), source="it") == manifest


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_altered_bytes_give_a_manifest_or_a_refusal(family: Family, data: st.DataObject) -> None:
    content = bytearray(manifest_bytes(family[1]))
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=50))
    try:
        manifest = parse_manifest(bytes(content), source="it")
    except QuadloomError:
        return
    assert parse_manifest(manifest_bytes(manifest), source="it") == manifest
