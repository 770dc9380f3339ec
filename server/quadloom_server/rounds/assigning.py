"""Makes the assignment message out of its row, and the training settings that belong to it."""

from quadloom_runtime.contract.manifest import BlobReference, FamilyManifest, MemberSpec
from quadloom_runtime.contract.wire import Assignment, TrainingSettings
from quadloom_runtime.errors import QuadloomError
from quadloom_server.family import ServedFamily
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.store.tables import Assignment as AssignmentRow


def check_settings(settings: TrainingSettings, manifest: FamilyManifest) -> None:
    """Refuse what no device could do, before one tries.

    Raises:
        QuadloomError: classes shall be balanced, and the family's task has none.
    """
    if settings.class_balance and manifest.task.num_labels is None:
        raise QuadloomError(
            f"class_balance is set, but the texts of {manifest.task.kind} have no classes", remedy="serve without it"
        )


def settings_for(task: TrainingSettings, *, round_number: int) -> TrainingSettings:
    """How a device trains in a round: as the task says, in a data order that differs from round to round."""
    return task.model_copy(update={"seed": task.seed + round_number})


def settings_of(row: AssignmentRow) -> TrainingSettings:
    """How the device trains: as was decided when it got the work."""
    return TrainingSettings.model_validate(row.settings)


def assignment_message(
    row: AssignmentRow,
    member: MemberSpec,
    *,
    task_id: str,
    family: ServedFamily,
    adapter: BlobReference,
    policy: RoundPolicy,
    deadline_s: float,
) -> Assignment:
    """What the device gets, the same when it is handed out again."""
    return Assignment(
        assignment_id=row.id,
        task_id=task_id,
        round_index=row.round_number,
        member=member.key,
        rank=row.rank,
        manifest_sha256=family.manifest_sha256,
        manifest_signature=family.signature,
        adapter=adapter,
        blobs=family.manifest.files_for(member),
        settings=settings_of(row),
        deadline_s=deadline_s,
        largest_staleness=policy.largest_staleness,
        retry_after_accepted_s=policy.retry_after_accepted_s,
        retry_after_rejected_s=policy.retry_after_rejected_s,
        reason=row.reason,
    )
