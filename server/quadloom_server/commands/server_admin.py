"""`quadloom server`: what the owner of a fleet does with a running server."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quadloom_runtime.administration import AdminClient
    from quadloom_runtime.contract.administration import EnrolledDevice, TokenStatus

SUMMARY = "administer a running server: its enrolment tokens, its devices, its task"
SECONDS_PER_HOUR = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: an area, then what to do there."""
    areas = parser.add_subparsers(dest="area", required=True, metavar="AREA")
    tokens = _area(areas, "tokens", "enrolment tokens, which let devices in")
    issue = _action(tokens, "issue", "make a token and print it; it is not shown again")
    issue.add_argument("--uses", type=int, metavar="N", help="devices that may come in by it (default: any number)")
    issue.add_argument("--expires-in-h", type=float, metavar="H", help="hours until it lets nobody in (default: never)")
    issue.add_argument("--note", default="", help="for people, e.g. whose devices it is for")
    _action(tokens, "list", "show every token, without its text")
    _action(tokens, "revoke", "let nobody in by a token any more").add_argument("token_id", metavar="TOKEN_ID")
    devices = _area(areas, "devices", "enrolled devices")
    _action(devices, "list", "show every device")
    _action(devices, "revoke", "shut a device out for good").add_argument("device_id", metavar="DEVICE_ID")
    task = _area(areas, "task", "the task that the server trains")
    _action(task, "start", "go on after a pause")
    _action(task, "pause", "hand out no more work until it is started again")
    _action(task, "end", "end it for good")
    _action(task, "status", "show how it stands", needs_token=False)


def run(arguments: argparse.Namespace) -> int:
    """Ask the server and print its answer."""
    from quadloom_runtime.administration import AdminClient, read_secret
    from quadloom_runtime.connection import ServerAddress

    address = ServerAddress(arguments.server, arguments.tls_ca, arguments.allow_unencrypted_http)
    file: Path | None = arguments.admin_token_file
    actions: dict[tuple[str, str], Callable[[AdminClient, argparse.Namespace], Iterable[str]]] = {
        ("tokens", "issue"): _issue_token,
        ("tokens", "list"): lambda client, _: _token_table(client.tokens()),
        ("tokens", "revoke"): lambda client, given: _token_table([client.revoke_token(given.token_id)]),
        ("devices", "list"): lambda client, _: _device_table(client.devices()),
        ("devices", "revoke"): lambda client, given: _device_table([client.revoke_device(given.device_id)]),
        ("task", "status"): _task_status,
    }
    token = None if file is None else read_secret(file, what="admin token")
    with AdminClient(address, token) as client:
        for line in actions.get((arguments.area, arguments.action), _control_task)(client, arguments):
            # Names that devices chose are in some lines: what is not printable must not reach a terminal.
            print("".join(each if each.isprintable() else " " for each in line))
    return 0


def _area(
    areas: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    return areas.add_parser(name, help=summary, description=summary).add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    *,
    needs_token: bool = True,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary)
    parser.add_argument("--server", required=True, metavar="URL", help="address of `quadloom serve`")
    parser.add_argument(
        "--admin-token-file",
        type=Path,
        required=needs_token,
        metavar="FILE",
        help="the file admin-token of the server's state folder, or a copy",
    )
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="certificates of a private authority to trust, PEM")
    parser.add_argument(
        "--allow-unencrypted-http",
        action="store_true",
        help="speak http:// also with another machine: everybody on the way can read the admin token",
    )
    return parser


def _issue_token(client: "AdminClient", arguments: argparse.Namespace) -> list[str]:
    from pydantic import ValidationError

    from quadloom_runtime.contract.administration import IssueTokenRequest
    from quadloom_runtime.errors import QuadloomError

    hours: float | None = arguments.expires_in_h
    try:
        request = IssueTokenRequest(
            max_uses=arguments.uses,
            expires_after_s=None if hours is None else hours * SECONDS_PER_HOUR,
            note=arguments.note,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise QuadloomError(
            f"{first['loc'][0]} is {first['input']!r}: {first['msg']}",
            remedy="see `quadloom server tokens issue --help`",
        ) from None
    return [client.issue_token(request).token]


def _control_task(client: "AdminClient", arguments: argparse.Namespace) -> list[str]:
    return [client.control_task(arguments.action).reason]


def _task_status(client: "AdminClient", _arguments: argparse.Namespace) -> list[str]:
    task = client.task_status()
    lines = [f"task {task.task_id}: {task.state}, {task.reason}"]
    for each in task.rounds:
        found = "" if each.evaluation is None else f", accuracy {each.evaluation.accuracy:.4f}"
        counts = f"{each.assigned} assigned, {each.accepted} accepted, {each.failed} failed"
        lines.append(f"round {each.index}: {each.state}, {counts}{found}")
    return [*lines, f"{len(task.devices)} devices"]


def _token_table(tokens: "Sequence[TokenStatus]") -> list[str]:
    rows = [
        (each.token_id, each.state, f"{each.uses}/{each.max_uses or '-'}", _time(each.expires_at_s), each.note)
        for each in tokens
    ]
    return _table(("token", "state", "uses", "expires", "note"), rows)


def _device_table(devices: "Sequence[EnrolledDevice]") -> list[str]:
    rows = [
        (
            each.device_id,
            each.name,
            "enrolled" if each.revoked_at_s is None else "revoked",
            _time(each.enrolled_at_s),
            _time(each.seen_at_s),
        )
        for each in devices
    ]
    return _table(("device", "name", "state", "enrolled", "seen"), rows)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def _time(at_s: float | None) -> str:
    from datetime import UTC, datetime

    return "never" if at_s is None else f"{datetime.fromtimestamp(at_s, tz=UTC):%Y-%m-%d %H:%M:%SZ}"
