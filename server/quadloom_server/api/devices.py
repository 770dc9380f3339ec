"""The routes that devices call: enrol, check in, report."""

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from quadloom_runtime.contract.wire import (
    CheckInRequest,
    CheckInResponse,
    EnrolRequest,
    EnrolResponse,
    FailureReport,
    ReportResponse,
)
from quadloom_runtime.crash_points import reach
from quadloom_server.api.authentication import OwnDeviceId, VerifiedSignature
from quadloom_server.api.uploads import UpdateReceiver
from quadloom_server.errors import RefusedRequestError
from quadloom_server.rounds.machine import Rounds
from quadloom_server.trust.ownership import require_own

SAFETENSORS_BODY = {
    "requestBody": {
        "required": True,
        "description": "safetensors with an UpdateReport as JSON in the metadata entry `report`",
        "content": {"application/vnd.safetensors": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def device_routes(rounds: Rounds) -> APIRouter:
    """The routes of devices. Plain functions run in threads, so that the database never blocks the event loop."""
    router = APIRouter(prefix="/v1")
    receiver = UpdateReceiver(rounds)

    @router.post("/devices")
    def enrol(message: EnrolRequest, signature: VerifiedSignature) -> EnrolResponse:
        if message.public_key != signature.key_id:
            raise RefusedRequestError(
                "the request is signed by another key than the one that it enrols",
                remedy="name the key that signs, both as public_key and as keyid",
                code="bad-signature",
                http_status=401,
            )
        answer = rounds.enrol(message, signature)
        reach("enrolled-before-answer")
        return answer

    @router.post("/devices/{device_id}/check-in")
    def check_in(device_id: OwnDeviceId, _request: CheckInRequest) -> CheckInResponse:
        answer = rounds.check_in(device_id)
        if answer.assignment is not None:
            reach("assignment-committed-before-answer")
        return answer

    @router.put("/assignments/{assignment_id}/update", openapi_extra=SAFETENSORS_BODY)
    async def report_update(assignment_id: str, request: Request, signature: VerifiedSignature) -> ReportResponse:
        await run_in_threadpool(require_own, rounds.state.sessions, assignment_id, device_id=signature.key_id)
        answer = await receiver.receive(assignment_id, request)
        if answer.status == "accepted":
            reach("update-counted-before-answer")
        return answer

    @router.post("/assignments/{assignment_id}/failure")
    def report_failure(assignment_id: str, report: FailureReport, signature: VerifiedSignature) -> ReportResponse:
        require_own(rounds.state.sessions, assignment_id, device_id=signature.key_id)
        return rounds.report_failure(assignment_id, report)

    return router
