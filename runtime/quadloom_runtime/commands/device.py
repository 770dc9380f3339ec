"""`quadloom device`: take part in a task with local data."""

import argparse
import socket
from pathlib import Path

SUMMARY = "train as one device of a fleet, on local data that never leaves it"


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
    parser.add_argument("--threads", type=int, help="threads of the engine; default: the profile's")
    parser.add_argument("--name", default=socket.gethostname(), help="identity towards the server (default: host name)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where files and progress are kept")
    parser.add_argument("--slowdown", type=float, metavar="F", help="take F times as long; default: the profile's")
    parser.add_argument("--link-mbps", type=float, metavar="F", help="link speed, both ways; default: the profile's")
    parser.add_argument("--patience-s", type=float, default=120.0, help="how long an unreachable server is tried")
    parser.add_argument("--text-field", default="text", help="field of the text (default %(default)s)")
    parser.add_argument("--label-field", default="label", help="field of the label (default %(default)s)")
    parser.add_argument("--events", type=Path, metavar="FILE", help="append machine-readable events to FILE")


def run(arguments: argparse.Namespace) -> int:
    """Run the device loop until the task is finished."""
    from quadloom_runtime.blobs import BlobCache
    from quadloom_runtime.contract.wire import Capabilities
    from quadloom_runtime.data import load_examples
    from quadloom_runtime.device.agent import DeviceAgent, DeviceOptions
    from quadloom_runtime.device.client import Link, ServerClient
    from quadloom_runtime.device.events import EventLog
    from quadloom_runtime.device.state import DeviceState
    from quadloom_runtime.emulation.profiles import profile
    from quadloom_runtime.units import parse_bytes

    chosen = profile(arguments.profile)
    limit_bytes = parse_bytes(arguments.memory_limit) if arguments.memory_limit else chosen.memory_limit_bytes
    link = Link(chosen.download_bytes_per_s, chosen.upload_bytes_per_s)
    if arguments.link_mbps is not None:
        link = Link(arguments.link_mbps * 1e6 / 8, arguments.link_mbps * 1e6 / 8)
    fields = {"text_field": arguments.text_field, "label_field": arguments.label_field}
    # Read once now, with any label allowed, to fail early and to say how many examples there are.
    examples = len(load_examples(arguments.data, num_labels=ANY_LABEL, **fields))
    capabilities = Capabilities(
        formats=("onnx",),
        memory_limit_bytes=limit_bytes,
        threads=chosen.threads if arguments.threads is None else arguments.threads,
        examples=examples,
        profile=chosen.name,
    )
    folder = arguments.cache or Path.home() / ".cache" / "quadloom" / arguments.name
    client = ServerClient(arguments.server, link=link, patience_s=arguments.patience_s)
    agent = DeviceAgent(
        client=client,
        options=DeviceOptions(
            name=arguments.name,
            capabilities=capabilities,
            memory_limit_bytes=limit_bytes,
            slowdown=chosen.slowdown if arguments.slowdown is None else arguments.slowdown,
        ),
        cache=BlobCache(folder / "blobs"),
        state=DeviceState(folder / "state"),
        load_data=lambda num_labels: load_examples(arguments.data, num_labels=num_labels, **fields),
        events=EventLog(arguments.events),
    )
    try:
        agent.run()
    finally:
        client.close()
    return 0


ANY_LABEL = 1 << 31
