"""The arguments of `quadloom serve`, and the values that they mean."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quadloom_runtime.contract.wire import TrainingSettings
    from quadloom_server.limits import Limits
    from quadloom_server.rounds.policy import RoundPolicy

# Given on the command line they replace the defaults of TrainingSettings and RoundPolicy, which are stated there only.
SETTINGS = (
    "optimizer",
    "learning_rate",
    "head_learning_rate",
    "weight_decay",
    "epochs",
    "max_steps",
    "accumulation",
    "clip_norm",
    "schedule",
    "seed",
    "class_balance",
)
POLICY = (
    "rounds",
    "max_devices",
    "min_devices",
    "min_updates",
    "devices_per_round",
    "selection",
    "largest_staleness",
    "aggregation",
    "server_optimizer",
    "server_learning_rate",
    "server_decay_rounds",
    "mean_share",
    "round_deadline_s",
    "target_accuracy",
    "target_loss",
    "retry_after_s",
    "retry_after_accepted_s",
    "retry_after_rejected_s",
    "max_update_norm",
    "clip_update_norm",
    "max_examples_per_update",
    "keep_updates",
    "planner",
)
LIMITS = (
    "requests_per_minute",
    "unsigned_requests_per_minute",
    "body_stall_s",
    "body_bytes_per_s",
    "header_timeout_s",
    "read_timeout_s",
    "max_connections",
)


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--family", type=Path, required=True, metavar="DIR", help="folder of `quadloom export`")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="database, updates and adapters")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="port, 0 takes a free one (default %(default)s)")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM) to serve https:// with")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM, unencrypted)")
    parser.add_argument(
        "--allow-unencrypted-http",
        action="store_true",
        help="serve http:// also beyond this machine: everybody on the way can read and alter what is sent",
    )
    parser.add_argument("--database-url", metavar="URL", help="SQLAlchemy URL (default: SQLite in the state folder)")
    parser.add_argument(
        "--browser-packages", type=Path, metavar="DIR", help="node_modules folder of the page /device, made by `npm ci`"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the evaluation (default %(default)s)")
    parser.add_argument(
        "--exit-when-finished", action="store_true", help="end after the last round, once every device was told"
    )
    _add_round_arguments(parser.add_argument_group("rounds"))
    _add_aggregation_arguments(parser.add_argument_group("what becomes of a round's updates"))
    _add_update_arguments(parser.add_argument_group("what an update may be"))
    _add_limit_arguments(parser.add_argument_group("limits"))
    _add_evaluation_arguments(parser.add_argument_group("evaluation of every round's adapter"))
    _add_training_arguments(parser.add_argument_group("training on the devices"))


def policy_of(arguments: argparse.Namespace) -> "RoundPolicy":
    """When rounds open, close and end.

    Raises:
        QuadloomError: a value is out of range.
    """
    from quadloom_runtime.errors import QuadloomError
    from quadloom_server.rounds.policy import RoundPolicy

    given = {name: getattr(arguments, name) for name in POLICY if getattr(arguments, name) is not None}
    most = given.get("devices_per_round", math.inf)
    given.setdefault("min_updates", min(given.get("min_devices", RoundPolicy.min_devices), most))
    for option in ("target_accuracy", "target_loss"):
        if given.get(option) is not None and arguments.eval_data is None:
            flag = "--" + option.replace("_", "-")
            raise QuadloomError(
                f"{flag} {given[option]} needs held-out data to measure it on", remedy="give --eval-data FILE"
            )
    return RoundPolicy(**given)


def limits_of(arguments: argparse.Namespace) -> "Limits":
    """What the server grants to whoever calls.

    Raises:
        QuadloomError: a value is out of range.
    """
    from quadloom_server.limits import Limits

    return Limits(**{name: getattr(arguments, name) for name in LIMITS if getattr(arguments, name) is not None})


def settings_of(arguments: argparse.Namespace) -> "TrainingSettings":
    """How devices train.

    Raises:
        QuadloomError: a value is out of range.
    """
    from pydantic import ValidationError

    from quadloom_runtime.contract.wire import TrainingSettings
    from quadloom_runtime.errors import QuadloomError

    given = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}
    if given.get("clip_norm") == 0:
        given["clip_norm"] = None
    try:
        return TrainingSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise QuadloomError(
            f"{first['loc'][0]} is {first['input']}: {first['msg']}", remedy="see `quadloom serve --help`"
        ) from None


def _add_round_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--rounds", type=int, metavar="N", help="rounds to train (default 3)")
    group.add_argument("--min-devices", type=int, metavar="N", help="devices at which round 1 opens (default 1)")
    group.add_argument(
        "--min-updates",
        type=int,
        metavar="N",
        help="updates without which no round closes (default: --min-devices, at most --devices-per-round)",
    )
    group.add_argument(
        "--devices-per-round",
        type=int,
        metavar="N",
        help="devices that train at a time (default: all)",
    )
    group.add_argument(
        "--selection",
        choices=("first-come", "in-turn"),
        help="who these are: whoever comes first (default), or each kind of device for its share of the time",
    )
    group.add_argument(
        "--largest-staleness",
        type=int,
        metavar="N",
        help="rounds by which an update may be late and still count, with the weight 1 / (1 + sqrt(rounds)); above 0, "
        "a round closes on --min-updates and does not wait for devices that may be late (default 0)",
    )
    group.add_argument(
        "--round-deadline-s", type=float, metavar="S", help="when a round stops waiting for devices (default 600)"
    )
    group.add_argument(
        "--planner",
        metavar="NAME",
        help="what decides who does what in a round: deepest (default), deadline, fedquad, ...",
    )
    group.add_argument("--target-accuracy", type=float, metavar="A", help="end early at this accuracy, e.g. 0.8")
    group.add_argument("--target-loss", type=float, metavar="L", help="end early at this held-out loss")
    group.add_argument("--retry-after-s", type=float, metavar="S", help="how often waiting devices ask (default 1)")
    group.add_argument(
        "--retry-after-accepted-s", type=float, metavar="S", help="how soon devices ask after their update (default 1)"
    )
    group.add_argument(
        "--retry-after-rejected-s", type=float, metavar="S", help="how soon after a rejected update (default 5)"
    )


def _add_aggregation_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--aggregation",
        metavar="NAME",
        help="how updates become an adapter: fedavg (default), flexlora, flexlora-change, hetlora, zero-padding, "
        "rank-segments, which differ where devices train at several ranks",
    )
    group.add_argument(
        "--server-optimizer",
        metavar="NAME",
        help="what the server makes of a round's mean change: fedavg takes it (default), fedavg-momentum, fedadam",
    )
    group.add_argument(
        "--server-learning-rate",
        type=float,
        metavar="X",
        help="its rate: of fedavg the share of the change that it takes, below 1 where rounds do not wait (default 1; "
        "fedavg-momentum 0.4, fedadam 0.01)",
    )
    group.add_argument(
        "--server-decay-rounds",
        type=float,
        metavar="N",
        help="with fedavg the server takes less and less: 1 / sqrt(1 + round / N) of that (default: always the same)",
    )
    group.add_argument(
        "--mean-share",
        type=float,
        metavar="X",
        help="evaluate and give out the mean over the last X of all rounds, e.g. 0.33, while devices train the newest "
        "(default 0: the newest)",
    )


def _add_update_arguments(group: "argparse._ArgumentGroup") -> None:
    norm = group.add_mutually_exclusive_group()
    norm.add_argument("--max-update-norm", type=float, metavar="C", help="refuse updates of a larger L2 norm")
    norm.add_argument(
        "--clip-update-norm", type=float, metavar="C", help="scale updates of a larger L2 norm down to it"
    )
    group.add_argument(
        "--max-examples-per-update", type=int, metavar="N", help="weight of one device at most (default: what it has)"
    )
    group.add_argument(
        "--keep-updates",
        action="store_true",
        default=None,
        help="keep the updates of closed rounds in the state folder",
    )


def _add_limit_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--max-devices", type=int, metavar="N", help="devices that may enrol (default 10000)")
    group.add_argument(
        "--max-requests-per-minute",
        dest="requests_per_minute",
        type=float,
        metavar="N",
        help="of one device (default 600)",
    )
    group.add_argument(
        "--max-unsigned-requests-per-minute",
        dest="unsigned_requests_per_minute",
        type=float,
        metavar="N",
        help="without a signature, of one address (default 600)",
    )
    group.add_argument("--body-stall-s", type=float, metavar="S", help="cut off a body that stands still (default 20)")
    group.add_argument(
        "--min-body-bytes-per-s",
        dest="body_bytes_per_s",
        type=float,
        metavar="B",
        help="cut off a body that is slower on average (default 1000)",
    )
    group.add_argument(
        "--header-timeout-s", type=float, metavar="S", help="close a connection without a whole request (default 20)"
    )
    group.add_argument(
        "--read-timeout-s", type=float, metavar="S", help="drop a client that takes nothing of its answer (default 60)"
    )
    group.add_argument("--max-connections", type=int, metavar="N", help="connections at once (default 4096)")


def _add_evaluation_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--eval-data", type=Path, metavar="FILE", help="held-out examples (JSONL, CSV or Parquet)")
    group.add_argument("--eval-limit", type=int, metavar="N", help="use the first N examples only")
    group.add_argument("--text-field", default="text", help="column of the text (default %(default)s)")
    group.add_argument("--label-field", default="label", help="column of the label (default %(default)s)")


def _add_training_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--optimizer", choices=("adamw", "sgd"), help="update rule (default adamw)")
    group.add_argument("--learning-rate", type=float, metavar="R", help="of LoRA tensors (default 2e-3)")
    group.add_argument("--head-learning-rate", type=float, metavar="R", help="of the head (default 1e-3)")
    group.add_argument("--weight-decay", type=float, metavar="W", help="decoupled (default 0)")
    group.add_argument("--local-epochs", dest="epochs", type=int, metavar="N", help="passes per round (default 1)")
    group.add_argument("--max-steps", type=int, metavar="N", help="bound on optimizer steps per round")
    group.add_argument("--accumulation", type=int, metavar="N", help="batches per optimizer step (default 1)")
    group.add_argument(
        "--clip-norm", type=float, metavar="C", help="bound on the gradient norm, 0 for none (default 1)"
    )
    group.add_argument("--schedule", choices=("constant", "linear"), help="learning rate in a round (default constant)")
    group.add_argument("--seed", type=int, metavar="N", help="of the data order (default 0)")
    group.add_argument("--class-balance", action="store_true", default=None, help="all classes alike on every device")
