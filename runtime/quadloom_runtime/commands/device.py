"""`quadloom device`: take part in a task with local data."""

import argparse
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quadloom_runtime.device.agent import DeviceAgent, DeviceOptions, LocalData
    from quadloom_runtime.device.client import Link
    from quadloom_runtime.device.events import EventLog
    from quadloom_runtime.emulation.profiles import DeviceProfile

SUMMARY = "train as one device of a fleet, on local data that never leaves it"
BITS_PER_MBIT, BITS_PER_BYTE = 10**6, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--server", required=True, metavar="URL", help="address of `quadloom serve`")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="labelled text: .jsonl, .csv or .parquet"
    )
    parser.add_argument("--profile", default="laptop", metavar="NAME", help="device profile (default %(default)s)")
    parser.add_argument(
        "--memory-limit", metavar="SIZE", help="what a step may allocate, e.g. 300MB; default: the profile's"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the engine; default: the profile's")
    parser.add_argument("--name", default=socket.gethostname(), help="what people call it (default: host name)")
    parser.add_argument(
        "--enrolment-token-file", type=Path, metavar="FILE", help="token that lets it in the first time it comes"
    )
    parser.add_argument(
        "--family-key", type=Path, metavar="FILE", help="public key (PEM); refuse a family that it does not vouch for"
    )
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="certificates of a private authority to trust, PEM")
    parser.add_argument(
        "--allow-unencrypted-http",
        action="store_true",
        help="speak http:// also with other machines: everybody on the way can read and alter what is sent",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where its key, files and progress are kept (default: ~/.cache/quadloom/NAME)",
    )
    parser.add_argument("--slowdown", type=float, metavar="F", help="take F times as long; default: the profile's")
    parser.add_argument(
        "--rank",
        type=int,
        metavar="N",
        help="train at this LoRA rank, or a lower one if the planner chooses it; default: the family's",
    )
    parser.add_argument("--link-mbps", type=float, metavar="F", help="link speed, both ways; default: the profile's")
    parser.add_argument(
        "--patience-s", type=float, default=120.0, metavar="S", help="how long the server may be away (default 120)"
    )
    parser.add_argument(
        "--checkpoint-s", type=float, default=10.0, metavar="S", help="how often progress is kept (default 10)"
    )
    parser.add_argument("--text-field", default="text", help="field of the text (default %(default)s)")
    parser.add_argument("--label-field", default="label", help="field of the label (default %(default)s)")
    parser.add_argument(
        "--formats",
        metavar="LIST",
        help="formats to train with, the preferred one first, e.g. executorch,onnx; default: all that are installed",
    )
    parser.add_argument("--events", type=Path, metavar="FILE", help="append machine-readable events to FILE")


def run(arguments: argparse.Namespace) -> int:
    """Run the device loop until the task is finished."""
    from quadloom_runtime.data import load_examples
    from quadloom_runtime.device.agent import LocalData
    from quadloom_runtime.device.events import EventLog
    from quadloom_runtime.emulation.profiles import profile

    # Ends like an interrupt does, so that the training process is ended too.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    chosen = profile(arguments.profile)
    fields = {"text_field": arguments.text_field, "label_field": arguments.label_field}
    data = LocalData(arguments.data, load_examples(arguments.data, **fields))
    link = _link(arguments, chosen)
    options = _options(arguments, chosen, link, examples=len(data.examples))
    events = EventLog(arguments.events)
    try:
        _agent(arguments, options, link, data, events).run()
    finally:
        events.close()
    return 0


def _options(arguments: argparse.Namespace, chosen: "DeviceProfile", link: "Link", *, examples: int) -> "DeviceOptions":
    from pydantic import ValidationError

    from quadloom_runtime.administration import read_secret
    from quadloom_runtime.contract.wire import Capabilities, DeviceDescription
    from quadloom_runtime.device.agent import DeviceOptions
    from quadloom_runtime.engines.installed import choose_formats
    from quadloom_runtime.errors import QuadloomError
    from quadloom_runtime.keys import load_public_key
    from quadloom_runtime.units import parse_bytes

    token_file: Path | None = arguments.enrolment_token_file
    slowdown = chosen.slowdown if arguments.slowdown is None else arguments.slowdown
    if not slowdown >= 1:
        raise QuadloomError(f"--slowdown is {slowdown:g}", remedy="give 1 or more; nothing makes this machine faster")
    try:
        capabilities = Capabilities(
            formats=choose_formats(arguments.formats),
            memory_limit_bytes=parse_bytes(arguments.memory_limit)
            if arguments.memory_limit
            else chosen.memory_limit_bytes,
            threads=chosen.threads if arguments.threads is None else arguments.threads,
            examples=examples,
            profile=chosen.name,
            slowdown=slowdown,
            download_bytes_per_s=link.download_bytes_per_s,
            upload_bytes_per_s=link.upload_bytes_per_s,
            rank=arguments.rank,
        )
        DeviceDescription(name=arguments.name, capabilities=capabilities)
    except ValidationError as error:
        first = error.errors()[0]
        raise QuadloomError(
            f"{first['loc'][-1]} is {first['input']!r}: {first['msg']}", remedy="see `quadloom device --help`"
        ) from None
    return DeviceOptions(
        name=arguments.name,
        capabilities=capabilities,
        slowdown=slowdown,
        checkpoint_every_s=arguments.checkpoint_s,
        enrolment_token=read_secret(token_file, what="enrolment token") if token_file else None,
        family_key=None if arguments.family_key is None else load_public_key(arguments.family_key),
    )


def _link(arguments: argparse.Namespace, chosen: "DeviceProfile") -> "Link":
    from quadloom_runtime.device.client import Link
    from quadloom_runtime.errors import QuadloomError

    if arguments.link_mbps is None:
        return Link(chosen.download_bytes_per_s, chosen.upload_bytes_per_s)
    if not arguments.link_mbps > 0:
        raise QuadloomError(f"--link-mbps is {arguments.link_mbps:g}", remedy="give a speed above 0, or leave it out")
    bytes_per_s = arguments.link_mbps * BITS_PER_MBIT / BITS_PER_BYTE
    return Link(bytes_per_s, bytes_per_s)


def _agent(
    arguments: argparse.Namespace, options: "DeviceOptions", link: "Link", data: "LocalData", events: "EventLog"
) -> "DeviceAgent":
    from quadloom_runtime.connection import ServerAddress
    from quadloom_runtime.device.agent import DeviceAgent
    from quadloom_runtime.device.client import ServerClient
    from quadloom_runtime.device.identity import device_key
    from quadloom_runtime.device.retry import Retry

    def say_retrying(cause: str, wait_s: float) -> None:
        line = f"{arguments.server} does not answer ({cause}), trying again in {wait_s:.1f} s"
        events.say("retrying", line, cause=cause, wait_s=wait_s)

    folder = arguments.cache or Path.home() / ".cache" / "quadloom" / options.name
    address = ServerAddress(arguments.server, arguments.tls_ca, arguments.allow_unencrypted_http)
    client = ServerClient(
        address, device_key(folder), link=link, retry=Retry(patience_s=arguments.patience_s, on_wait=say_retrying)
    )
    return DeviceAgent(client=client, options=options, folder=folder, data=data, events=events)
