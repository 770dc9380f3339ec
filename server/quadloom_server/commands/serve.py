"""`quadloom serve`: give a family to a fleet and train its adapter in rounds."""

import argparse
from typing import TYPE_CHECKING

from quadloom_server.commands.serve_arguments import add_serve_arguments, limits_of, policy_of, settings_of

if TYPE_CHECKING:
    from quadloom_server.family import ServedFamily
    from quadloom_server.rounds.evaluation import Evaluator

SUMMARY = "Serve a family to devices and train its adapter with them, round by round."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_serve_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped."""
    import time

    from quadloom_server.api.browser_device import INSTALLED_PACKAGES
    from quadloom_server.family import open_family
    from quadloom_server.rounds.assigning import check_settings
    from quadloom_server.rounds.averaging import averaging_of
    from quadloom_server.rounds.background import BackgroundWorker
    from quadloom_server.rounds.machine import Rounds
    from quadloom_server.serving import bind, run_server
    from quadloom_server.state import open_state
    from quadloom_server.tls import check_way_in

    policy, settings, limits = policy_of(arguments), settings_of(arguments), limits_of(arguments)
    certificate = check_way_in(
        arguments.host, arguments.tls_cert, arguments.tls_key, unencrypted=arguments.allow_unencrypted_http
    )
    family = open_family(arguments.family)
    check_settings(settings, family.manifest)
    # A state that is begun keeps its aggregation: what does not go together must not begin one.
    averaging_of(policy, family.manifest)
    for warning in family.warnings:
        _say(f"warning: {warning}")
    evaluator = _evaluator(arguments, family)
    with bind(arguments.host, arguments.port) as listener:
        state = open_state(
            arguments.state,
            family,
            aggregation=policy.aggregation,
            database_url=arguments.database_url,
            now_s=time.time(),
        )
        try:
            background = BackgroundWorker()
            rounds = Rounds(
                family=family,
                state=state,
                policy=policy,
                settings=settings,
                background=background,
                evaluator=evaluator,
                announce=_say,
            )
            host, port = listener.getsockname()[:2]
            scheme = "http" if certificate is None else "https"
            place = f"[{host}]" if ":" in host else host
            _say(f"serving {family.manifest.model.source} at {scheme}://{place}:{port}")
            run_server(
                rounds,
                listener=listener,
                certificate=certificate,
                background=background,
                limits=limits,
                browser_packages=arguments.browser_packages or INSTALLED_PACKAGES,
                exit_when_finished=arguments.exit_when_finished,
            )
        finally:
            state.close()
    _say("stopped")
    return 0


def _evaluator(arguments: argparse.Namespace, family: "ServedFamily") -> "Evaluator | None":
    if arguments.eval_data is None:
        return None
    from quadloom_server.held_out import held_out_evaluator

    return held_out_evaluator(
        family,
        arguments.eval_data,
        text_field=arguments.text_field,
        label_field=arguments.label_field,
        limit=arguments.eval_limit,
        threads=arguments.threads,
    )


def _say(line: str) -> None:
    # Devices' own words are in some lines: what is not printable must not reach a terminal, or begin a line of its own.
    print("".join(each if each.isprintable() else " " for each in line), flush=True)
