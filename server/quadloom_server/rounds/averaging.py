"""How a task averages, from its policy and its family."""

from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_server.aggregation.averaging import Averaging
from quadloom_server.aggregation.server_optimizer import check_combination
from quadloom_server.rounds.policy import RoundPolicy


def averaging_of(policy: RoundPolicy, manifest: FamilyManifest) -> Averaging:
    """What the task's rounds are aggregated with.

    Raises:
        QuadloomError: the family cannot be averaged so, or not with the policy's step of the server or mean of rounds.
    """
    averaging = Averaging(policy.aggregation, manifest)
    check_combination(policy.server_step, averaging.method(), mean_share=policy.mean_share)
    return averaging
