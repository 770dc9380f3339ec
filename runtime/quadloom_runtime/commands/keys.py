"""`quadloom keys`: make the pair of keys that signs families and checks them."""

import argparse
from pathlib import Path

SUMMARY = "make a key that signs families, and the public key that checks them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="new file for the private key; the public one goes to FILE.pub"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write both keys as PEM and say where."""
    from quadloom_runtime.errors import QuadloomError
    from quadloom_runtime.keys import create_private_key, public_key_text, write_public_key

    private: Path = arguments.file
    public = private.with_name(private.name + ".pub")
    if public.exists():
        raise QuadloomError(f"there is a file at {public} already", remedy="use that pair, or name another FILE")
    key = create_private_key(private)
    write_public_key(public, key.public_key())
    print(f"private key: {private} (keep it secret; `quadloom export --signing-key` signs with it)")
    print(f"public key:  {public} (give it to devices; `quadloom device --family-key` checks with it)")
    print(f"as text:     {public_key_text(key.public_key())}")
    return 0
