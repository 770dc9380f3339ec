"""Whose request is it? Answers for signed requests, before anything else of them is believed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from quadloom_runtime.contract.signatures import (
    MAX_CLOCK_SKEW_S,
    BadSignatureError,
    MalformedSignatureError,
    RequestSignature,
    parse_signature,
)
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.keys import parse_public_key
from quadloom_server.errors import RefusedRequestError, RevokedDeviceError, UnknownDeviceError
from quadloom_server.store.tables import Device
from quadloom_server.trust.nonces import NonceLog, refuse_replay

ENROL = ("POST", "/v1/devices")
SIGN = "sign the request with the device's key, as `quadloom device` does"


@dataclass(frozen=True, kw_only=True)
class RequestAuthenticator:
    """Checks signatures against the keys of enrolled devices.

    Attributes:
        sessions: where devices are read.
        nonces: where replays are found out.
        clock: seconds since the epoch.
    """

    sessions: sessionmaker[Session]
    nonces: NonceLog
    clock: Callable[[], float] = time.time

    def authenticate(
        self,
        *,
        method: str,
        target: str,
        content_digest: list[str],
        signature_input: list[str],
        signature: list[str],
    ) -> RequestSignature:
        """The verified signature of a request. That the body has the stated digest is for the caller to check.

        Nothing is written: a request that is to be done is noted, see `note`. A device that enrols is known by nothing
        but its key, so whether it may come in, and whether its request is a replay, is left to the enrolment.

        Args:
            target: path and query as they stand in the request line.
            content_digest, signature_input, signature: the values of these fields, each as often as it was sent.

        Raises:
            RefusedRequestError: unsigned, malformed, forged, too old or too new, replayed, or by a device that is
                unknown or revoked.
        """
        fields = (content_digest, signature_input, signature)
        if not any(fields):
            raise _refused("the request is not signed", "unsigned-request", remedy=SIGN)
        if [len(each) for each in fields] != [1, 1, 1]:
            raise _refused(
                "each of Content-Digest, Signature-Input and Signature must be sent once", "malformed-signature", SIGN
            )
        try:
            stated = parse_signature(
                content_digest=content_digest[0], signature_input=signature_input[0], signature=signature[0]
            )
        except MalformedSignatureError as error:
            raise _refused(error.cause, "malformed-signature", error.remedy) from None
        if (method, target) == ENROL:
            self._verify(stated, stated.key_id, method=method, target=target)
            return stated
        with self.sessions() as session:
            device = session.get(Device, stated.key_id)
            if device is None:
                raise UnknownDeviceError(stated.key_id)
            self._verify(stated, device.public_key, method=method, target=target)
            if device.revoked_at_s is not None:
                raise RevokedDeviceError(device.name)
            refuse_replay(session, stated)
        return stated

    def note(self, verified: RequestSignature, *, method: str, target: str) -> None:
        """Note a verified request before it is done, so that it is not done again; an enrolment notes its own.

        Raises:
            RefusedRequestError: 401, it came twice at once, and the other one is being done.
        """
        if (method, target) != ENROL:
            self.nonces.note(verified, now_s=self.clock())

    def _verify(self, stated: RequestSignature, public_key: str, *, method: str, target: str) -> None:
        try:
            stated.verify(parse_public_key(public_key), method=method, target=target)
        except BadSignatureError as error:
            raise _refused(error.cause, "bad-signature", error.remedy) from None
        except QuadloomError as error:  # at enrolment the key comes from outside
            raise _refused(error.cause, "malformed-signature", error.remedy) from None
        now_s = self.clock()
        if abs(now_s - stated.created_s) > MAX_CLOCK_SKEW_S:
            raise RefusedRequestError(
                f"the request was signed at {stated.created_s}, and it is {now_s:.0f} here: {MAX_CLOCK_SKEW_S} s is "
                "the most that clocks may differ",
                remedy="set the clock; `quadloom device` corrects its own by server_time_s",
                code="clock-skew",
                http_status=401,
                server_time_s=now_s,
            )


def _refused(cause: str, code: str, remedy: str) -> RefusedRequestError:
    return RefusedRequestError(cause, remedy=remedy, code=code, http_status=401)
