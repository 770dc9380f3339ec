"""`quadloom inspect`: what a family holds, what fills a member's memory, whether its files are intact."""

import argparse
from pathlib import Path

SUMMARY = "show a family: members, memory, gradient error; verify its files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("family", type=Path, metavar="DIR", help="folder that `quadloom export` wrote")
    parser.add_argument("--json", action="store_true", help="print the manifest (or the member) as JSON")
    parser.add_argument(
        "--member", metavar="D,Q", help="one member, e.g. 6,4, or 6,4,30 where several recompute budgets have it"
    )
    parser.add_argument("--memory", action="store_true", help="with --member: what fills its planned peak")
    parser.add_argument(
        "--family-key",
        type=Path,
        metavar="FILE",
        help="public key (PEM); a family that it does not vouch for is refused",
    )
    parser.add_argument("--verify", action="store_true", help="check every file against its hash")


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for; status 1 when --verify finds a damaged file."""
    from quadloom_runtime.errors import QuadloomError
    from quadloom_runtime.family_folder import MANIFEST_NAME, altered_files, parse_manifest, read_manifest_file
    from quadloom_runtime.family_signature import read_signature, verify_manifest
    from quadloom_runtime.family_table import family_table, member_table, memory_table
    from quadloom_runtime.keys import load_public_key
    from quadloom_runtime.member_names import find_member

    if arguments.memory and arguments.member is None:
        raise QuadloomError("--memory needs a member", remedy="name one, e.g. --member 6,4 --memory")
    content, source = read_manifest_file(arguments.family), str(arguments.family / MANIFEST_NAME)
    if arguments.family_key is not None:
        key = load_public_key(arguments.family_key)
        verify_manifest(content, read_signature(arguments.family), key, source=source)
    manifest = parse_manifest(content, source=source)
    if arguments.verify:
        damaged = altered_files(arguments.family, manifest)
        print("\n".join(damaged) if damaged else f"{len(manifest.blobs())} files are as the manifest says")
        if arguments.family_key is not None:
            print(f"the manifest is signed by the key in {arguments.family_key}")
        return 1 if damaged else 0
    if arguments.member is None:
        print(manifest.model_dump_json(indent=1) if arguments.json else family_table(manifest))
        return 0
    member = find_member(manifest, arguments.member)
    if arguments.json:
        print(member.model_dump_json(indent=1))
    else:
        print(memory_table(member) if arguments.memory else member_table(member))
    return 0
