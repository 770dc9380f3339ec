"""Signed requests: one fixed profile of HTTP Message Signatures (RFC 9421) and Digest Fields (RFC 9530). Pure.

    Content-Digest: sha-256=:<base64>:
    Signature-Input: quadloom=("@method" "@path" "content-digest")
        ;created=<seconds>;keyid="<id>";alg="ed25519";nonce="<base64>"              (all on one line, no spaces)
    Signature: quadloom=:<base64>:

``"@query"`` follows ``"@path"`` when the address has a query. The digest is that of the body as it is sent, also of an
empty one. ``keyid`` is the device's id; at enrolment, which gives that id, it is the text of the device's public key.
Everything outside this profile is malformed: there is no second way to write a signature, so none to get past a check.
"""

import base64
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from quadloom_runtime.errors import QuadloomError

CONTENT_DIGEST, SIGNATURE_INPUT, SIGNATURE = "content-digest", "signature-input", "signature"
MAX_CLOCK_SKEW_S: Final = 120
"""By how much the clocks of device and server may differ; as long must a server remember nonces."""
NONCE_BYTES: Final = 16

# Base64 ends in a letter whose unused bits are zero: any other would be a second text for the same bytes.
_NONCE = r"[A-Za-z0-9+/]{21}[AQgw]=="
_SHA256 = r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
_ED25519_SIGNATURE = r"[A-Za-z0-9+/]{85}[AQgw]=="
_DIGEST_FIELD = re.compile(rf"sha-256=:({_SHA256}):", re.ASCII)
_SIGNATURE_FIELD = re.compile(rf"quadloom=:({_ED25519_SIGNATURE}):", re.ASCII)
_INPUT_FIELD = re.compile(
    r'quadloom=(?P<parameters>\("@method" "@path"(?P<query> "@query")? "content-digest"\)'
    r";created=(?P<created>0|[1-9][0-9]{0,11})"
    r';keyid="(?P<key_id>[A-Za-z0-9+/=-]{1,64})"'
    r';alg="ed25519"'
    rf';nonce="(?P<nonce>{_NONCE})")',
    re.ASCII,
)


class MalformedSignatureError(QuadloomError):
    """Fields that do not follow the profile."""


class BadSignatureError(QuadloomError):
    """A well-formed signature that is not one of this request by this key."""


@dataclass(frozen=True, kw_only=True)
class RequestSignature:
    """What the three fields of a request say. Nothing of it is true before `verify`.

    Attributes:
        parameters: the value of ``@signature-params``, as it was sent.
        covers_query: whether ``@query`` is signed.
        content_sha256: 32 bytes, the stated hash of the body.
        created_s: when it was signed, by the signer's clock, in seconds since the epoch.
        nonce: 16 random bytes in base64; never used twice.
        key_id: whose key signed.
        signature: 64 bytes.
    """

    parameters: str
    covers_query: bool
    content_sha256: bytes
    created_s: int
    nonce: str
    key_id: str
    signature: bytes

    def verify(self, key: Ed25519PublicKey, *, method: str, target: str) -> None:
        """Check that `key` signed a request with this method, target and stated content.

        Args:
            target: path and query as they stand in the request line.

        Raises:
            BadSignatureError: it did not.
        """
        digest = digest_field(self.content_sha256)
        base = _signature_base(method, target, digest=digest, parameters=self.parameters)
        try:
            if self.covers_query != ("?" in target):
                raise InvalidSignature
            key.verify(self.signature, base)
        except InvalidSignature:
            raise BadSignatureError(
                f"the signature is not one of {method} {target[:200]!r} by the key of {self.key_id!r}",
                remedy="sign method, path, query and content-digest as they are sent, with the key that was enrolled",
            ) from None


def digest_field(content_sha256: bytes) -> str:
    """The Content-Digest field of a body with this hash."""
    return f"sha-256=:{_text(content_sha256)}:"


def sign(
    key: Ed25519PrivateKey,
    *,
    method: str,
    target: str,
    content_sha256: bytes,
    key_id: str,
    created_s: int,
    nonce: bytes,
) -> dict[str, str]:
    """The three fields to send with a request.

    Args:
        target: path and query as they will stand in the request line.
        content_sha256: 32 bytes, the hash of the whole body, also of an empty one.
        nonce: 16 fresh random bytes.
    """
    digest = digest_field(content_sha256)
    query = ' "@query"' if "?" in target else ""
    parameters = (
        f'("@method" "@path"{query} "content-digest");created={created_s};keyid="{key_id}"'
        f';alg="ed25519";nonce="{_text(nonce)}"'
    )
    signature = key.sign(_signature_base(method, target, digest=digest, parameters=parameters))
    return {
        CONTENT_DIGEST: digest,
        SIGNATURE_INPUT: f"quadloom={parameters}",
        SIGNATURE: f"quadloom=:{_text(signature)}:",
    }


def parse_signature(*, content_digest: str, signature_input: str, signature: str) -> RequestSignature:
    """Read the three fields of a request.

    Raises:
        MalformedSignatureError: one of them does not follow the profile.
    """
    digest = _DIGEST_FIELD.fullmatch(content_digest)
    stated = _INPUT_FIELD.fullmatch(signature_input)
    signed = _SIGNATURE_FIELD.fullmatch(signature)
    if digest is None:
        raise _malformed("Content-Digest", content_digest)
    if stated is None:
        raise _malformed("Signature-Input", signature_input)
    if signed is None:
        raise _malformed("Signature", signature)
    return RequestSignature(
        parameters=stated["parameters"],
        covers_query=stated["query"] is not None,
        content_sha256=base64.b64decode(digest[1]),
        created_s=int(stated["created"]),
        nonce=stated["nonce"],
        key_id=stated["key_id"],
        signature=base64.b64decode(signed[1]),
    )


def _signature_base(method: str, target: str, *, digest: str, parameters: str) -> bytes:
    """What is signed (RFC 9421, section 2.5)."""
    path, mark, query = target.partition("?")
    lines = [f'"@method": {method}', f'"@path": {path or "/"}']
    if mark:
        lines.append(f'"@query": ?{query}')
    lines += [f'"content-digest": {digest}', f'"@signature-params": {parameters}']
    return "\n".join(lines).encode()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _malformed(field: str, value: str) -> MalformedSignatureError:
    return MalformedSignatureError(
        f"{field} is {value[:300]!r}, which is not how Quadloom writes it",
        remedy="sign as the module quadloom_runtime.contract.signatures does: one signature, these components only",
    )
