"""The APK that is built without the Android SDK: what it declares, holds, is signed with and is built from."""

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / "android_demo" / "tools"
CANNOT_BE_HAD = 3
"""Exit status of the build where its tools or packages cannot be had."""


def output(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def apk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("android")
    packages = ROOT / "build" / "android" / "packages"
    done = subprocess.run(
        [TOOLS / "build_offline.sh", out, packages], capture_output=True, text=True, timeout=500, check=False
    )
    if done.returncode == CANNOT_BE_HAD:
        pytest.skip(f"NO APK WAS BUILT OR TESTED: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return out / "quadloom.apk"


def test_it_installs_where_it_says_and_asks_for_what_it_needs_alone(apk: Path) -> None:
    badging = output("aapt2", "dump", "badging", apk)
    assert "package: name='org.quadloom.app'" in badging
    assert "sdkVersion:'26'" in badging
    assert "targetSdkVersion:'35'" in badging
    assert "native-code: 'arm64-v8a' 'x86_64'" in badging
    assert set(re.findall(r"uses-permission: name='android\.permission\.(\w+)'", badging)) == {
        "ACCESS_NETWORK_STATE",
        "FOREGROUND_SERVICE",
        "FOREGROUND_SERVICE_DATA_SYNC",
        "INTERNET",
        "POST_NOTIFICATIONS",
        "RECEIVE_BOOT_COMPLETED",
        "WAKE_LOCK",
    }


def test_it_is_signed_by_the_schemes_that_android_8_and_later_check(apk: Path) -> None:
    verified = output("apksigner", "verify", "--verbose", "--min-sdk-version", "26", apk)
    assert "v2 scheme (APK Signature Scheme v2): true" in verified
    assert "v3 scheme (APK Signature Scheme v3): true" in verified


def test_what_android_maps_from_the_file_is_stored_and_aligned(apk: Path) -> None:
    output("zipalign", "-c", "-p", "4", apk)
    with zipfile.ZipFile(apk) as archive:
        assert archive.getinfo("resources.arsc").compress_type == zipfile.ZIP_STORED


def test_the_manifest_names_classes_that_are_there(apk: Path, tmp_path: Path) -> None:
    tree = output("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", apk)
    named = set(re.findall(r'android:name\(0x01010003\)="(org\.quadloom\.[\w.]+)"', tree))
    assert named == {f"org.quadloom.app.{each}" for each in ("MainActivity", "TrainingService", "ResumeJob")}
    with zipfile.ZipFile(apk) as archive:
        archive.extract("classes.dex", tmp_path)
    defined = set(re.findall(r"Class descriptor\s+: 'L([\w/$]+);'", output("dexdump", tmp_path / "classes.dex")))
    assert {each.replace(".", "/") for each in named} <= defined
    assert {"org/pytorch/executorch/Module", "com/facebook/jni/HybridData$Destructor"} <= defined
    assert not [each for each in defined if each.startswith("ai/onnxruntime/")], "signatures without code were packed"


def test_each_abi_has_every_library_that_another_needs(apk: Path, tmp_path: Path) -> None:
    of_android = {"libandroid.so", "libc.so", "libdl.so", "liblog.so", "libm.so"}
    with zipfile.ZipFile(apk) as archive:
        libraries = [each for each in archive.namelist() if each.startswith("lib/")]
        archive.extractall(tmp_path, libraries)
    machines = {"arm64-v8a": "AArch64", "x86_64": "X86-64"}
    for abi, machine in machines.items():
        found = sorted((tmp_path / "lib" / abi).iterdir())
        headers = {each.name: output("readelf", "--file-header", "--dynamic", each) for each in found}
        needed = {name for text in headers.values() for name in re.findall(r"\(NEEDED\).*\[(.+)\]", text)}
        assert all(machine in text for text in headers.values())
        assert needed <= of_android | set(headers)


def test_a_package_with_another_hash_is_not_used(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(TOOLS / "fetch_packages.sh", tools)
    (tools / "packages.txt").write_text(f"npm loom 1.0.0 {'0' * 64}\n")
    (tools / "npm").write_text("#!/bin/sh\necho other > loom-1.0.0.tgz\necho loom-1.0.0.tgz\n")
    (tools / "npm").chmod(0o755)
    fetched = subprocess.run(
        [tools / "fetch_packages.sh", tmp_path / "packages"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
    )
    assert fetched.returncode == 1
    assert "loom 1.0.0 has another SHA-256" in fetched.stderr
    assert not (tmp_path / "packages" / "loom").exists()
