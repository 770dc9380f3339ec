"""Plans rounds: all devices at once when a round opens, and each that comes or fails in it by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_server.aggregation.validation import trained_layers
from quadloom_server.family import ServedFamily
from quadloom_server.planning.cost_model import ReferenceCost, completion_time, reference_costs
from quadloom_server.planning.importance import updated_importance
from quadloom_server.planning.plan import deepest_that_fits, needed_bytes
from quadloom_server.planning.registry import planner
from quadloom_server.planning.round_plan import PlannedDevice, PlannedWork, RoundContext, RoundPlan
from quadloom_server.planning.uniform_depth import uniform_depth
from quadloom_server.planning.waiting import waiting
from quadloom_server.rounds.knowledge import planned_devices
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.history import reported_in
from quadloom_server.store.plans import planned_assignment
from quadloom_server.store.tables import Assignment, Device, PlannedAssignment, Round


@dataclass(frozen=True)
class RoundPlanning:
    """What planning needs beside the store."""

    policy: RoundPolicy
    family: ServedFamily
    settings: TrainingSettings

    def open_round(self, turn: Turn, *, number: int, after: Round | None, deadline_s: float) -> None:
        """Open a round with its plan, in one transaction. Devices that are still at work on an earlier one go on."""
        at_work = select(Assignment.device_id).where(Assignment.state == "open")
        devices = turn.session.scalars(
            select(Device)
            .where(Device.revoked_at_s.is_(None), Device.id.not_in(at_work))
            .order_by(Device.enrolled_at_s, Device.id)
        ).all()
        context = self._context(turn.session, devices, number=number, after=after)
        plan = planner(self.policy.planner)(context)
        uniform = uniform_depth(context)
        uniform_waiting = waiting(_expected_s(uniform))
        turn.session.add(
            Round(
                number=number,
                state="open",
                opened_at_s=turn.now_s,
                window_opened_at_s=turn.now_s,
                deadline_at_s=turn.now_s + deadline_s,
                planner=self.policy.planner,
                importance={str(layer): value for layer, value in context.importance.items()},
                uniform_depth=max((each.member.depth for each in uniform.values() if each.member), default=0),
                uniform_wait_s=uniform_waiting.sum_s,
                uniform_wait_share=uniform_waiting.share,
            )
        )
        turn.session.flush()
        for device in devices:
            work = plan[device.name]
            turn.session.add(
                planned_assignment(
                    number,
                    device.id,
                    member=work.member,
                    reason=work.reason,
                    expected_s=work.expected_s,
                    steps=self._optimizer_steps(work),
                    rank=work.rank,
                )
            )
        turn.session.flush()
        _announce(turn, number, self.policy.planner, plan)

    def plan_alone(self, turn: Turn, device: Device, current: Round) -> PlannedAssignment:
        """Plan a device that was not there when the round opened, or whose member did not fit: its deepest that fits.

        Members that failed on it are left out, and those that do not fit by what it went through.
        """
        (known,) = self._known(turn.session, [device], number=current.number)
        limit_bytes = known.capabilities.memory_limit_bytes
        members = self.family.manifest.members
        stated = partial(needed_bytes, rank=known.capabilities.rank)
        corrected = {each.key for each in members if stated(each) <= limit_bytes < known.memory.needed_bytes(each)}
        choice = deepest_that_fits(known.capabilities, members, known.excluded | corrected)
        row = turn.session.merge(
            planned_assignment(
                current.number,
                device.id,
                member=choice.member,
                reason=choice.reason,
                expected_s=None if choice.member is None else self._alone_s(known, choice.member),
            )
        )
        turn.session.flush()
        return row

    def _optimizer_steps(self, work: PlannedWork) -> int | None:
        """The planner counts runs of the training graph, settings count steps of the optimizer."""
        return None if work.steps is None else max(1, round(work.steps / self.settings.accumulation))

    @cached_property
    def _references(self) -> dict[MemberKey, ReferenceCost]:
        return reference_costs(self.family.manifest)

    def _context(
        self, session: Session, devices: Sequence[Device], *, number: int, after: Round | None
    ) -> RoundContext:
        manifest = self.family.manifest
        return RoundContext(
            members=manifest.members,
            references=self._references,
            layers=manifest.model.layers,
            devices=self._known(session, devices, number=number),
            steps=1,  # each device has its own number
            rank=manifest.lora.rank,
            importance={} if after is None else self._importance(session, after),
            round_index=number,
            seed=self.settings.seed,
        )

    def _known(self, session: Session, devices: Sequence[Device], *, number: int) -> tuple[PlannedDevice, ...]:
        return planned_devices(
            session,
            devices,
            round_number=number,
            manifest=self.family.manifest,
            references=self._references,
            settings=self.settings,
        )

    def _importance(self, session: Session, after: Round) -> dict[int, float]:
        """Importance of the layers after a round: what was known when it opened, and what was reported in it."""
        norms = []
        for each in reported_in(session, after.number):
            layers = trained_layers(self.family.manifest.trained_parameters(each.member.depth))
            norms.append(dict(zip(layers, each.report.gradient_norms, strict=False)))
        return updated_importance({int(layer): value for layer, value in after.importance.items()}, norms)

    def _alone_s(self, known: PlannedDevice, member: MemberKey) -> float:
        time = completion_time(known.cost, member, self._references, steps=known.steps or 1, fetched=known.fetched)
        return time.total_s


def _expected_s(plan: RoundPlan) -> list[float]:
    return [work.expected_s for work in plan.values() if work.expected_s is not None]


def _announce(turn: Turn, number: int, planner_name: str, plan: RoundPlan) -> None:
    times = _expected_s(plan)
    turn.events.append(
        f"round {number} open: {len(times)} of {len(plan)} devices have work, done in {max(times, default=0.0):.1f} s "
        f"as expected (planner {planner_name})"
    )
    for name, work in plan.items():
        if work.member is None:
            turn.events.append(f"round {number}: {name} has no work ({work.reason})")
