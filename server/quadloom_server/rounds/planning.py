"""Plans rounds: all devices at once when a round opens, and each that comes or fails in it by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_server.aggregation.validation import trained_layers
from quadloom_server.family import ServedFamily
from quadloom_server.planning.cost_model import ReferenceCost, reference_costs
from quadloom_server.planning.deepest_each import deepest_each
from quadloom_server.planning.importance import updated_importance
from quadloom_server.planning.registry import planner
from quadloom_server.planning.round_plan import RoundContext, RoundPlan
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
                    rank=work.rank,
                )
            )
        turn.session.flush()
        _announce(turn, number, self.policy.planner, plan)

    def plan_alone(self, turn: Turn, device: Device, current: Round) -> PlannedAssignment:
        """Plan a device that was not there when the round opened, or whose plan failed: the deepest that fits."""
        context = self._context(turn.session, [device], number=current.number, after=None)
        work = deepest_each(context)[device.name]
        row = turn.session.merge(
            planned_assignment(
                current.number, device.id, member=work.member, reason=work.reason, expected_s=work.expected_s
            )
        )
        turn.session.flush()
        return row

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
            devices=planned_devices(
                session,
                devices,
                round_number=number,
                manifest=manifest,
                references=self._references,
                settings=self.settings,
            ),
            steps=1,  # each device has its own number
            rank=manifest.lora.rank,
            importance={} if after is None else self._importance(session, after),
            round_index=number,
            seed=self.settings.seed,
        )

    def _importance(self, session: Session, after: Round) -> dict[int, float]:
        """Importance of the layers after a round: what was known when it opened, and what was reported in it."""
        norms = []
        for each in reported_in(session, after.number):
            layers = trained_layers(self.family.manifest.trained_parameters(each.member.depth))
            norms.append(dict(zip(layers, each.report.gradient_norms, strict=False)))
        return updated_importance({int(layer): value for layer, value in after.importance.items()}, norms)


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
