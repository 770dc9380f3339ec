"""A device's signed requests over one kept connection, with as little work on this side as can be.

A full HTTP client takes longer for a request than the server does, and would be what is measured.
"""

import asyncio
import hashlib
import os
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quadloom_runtime.contract.signatures import sign

END_OF_HEAD = b"\r\n\r\n"
PIECE_BYTES = 1 << 18


@dataclass(frozen=True)
class Answer:
    """What the server said, how many bytes its body had, and after how long."""

    status: int
    body: bytes
    size_bytes: int
    latency_s: float


class SignedConnection:
    """One device's connection; one request at a time.

    Args:
        key_id: to be set to the device's id once it has enrolled.
    """

    def __init__(self, key: Ed25519PrivateKey, key_id: str, *, host: str, port: int) -> None:
        self.key, self.key_id = key, key_id
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, content: bytes = b"", *, headers: str = "", keep_body: bool = True
    ) -> Answer:
        """Send a request and read its answer; the body is thrown away piece by piece unless it is wanted.

        A connection that the server has closed in a pause is opened again, as any HTTP client does.
        """
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(*self._address)
        try:
            return await self._exchange(*self._streams, self._message(method, path, content, headers), keep_body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._streams = await asyncio.open_connection(*self._address)
            return await self._exchange(*self._streams, self._message(method, path, content, headers), keep_body)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()

    def _message(self, method: str, path: str, content: bytes, headers: str) -> bytes:
        fields = sign(
            self.key,
            method=method,
            target=path,
            content_sha256=hashlib.sha256(content).digest(),
            key_id=self.key_id,
            created_s=int(time.time()),
            nonce=os.urandom(16),
        )
        signed = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{method} {path} HTTP/1.1\r\nhost: server\r\ncontent-length: {len(content)}\r\n{headers}{signed}\r\n"
        return head.encode() + content

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes, keep_body: bool
    ) -> Answer:
        began_s = time.perf_counter()
        writer.write(message)
        await writer.drain()
        status, size_bytes = _read_head(await reader.readuntil(END_OF_HEAD))
        body = await reader.readexactly(size_bytes) if keep_body else await _skip(reader, size_bytes)
        return Answer(status, body, size_bytes, time.perf_counter() - began_s)


async def _skip(reader: asyncio.StreamReader, size_bytes: int) -> bytes:
    while size_bytes > 0:
        size_bytes -= len(await reader.read(min(PIECE_BYTES, size_bytes)))
    return b""


def _read_head(head: bytes) -> tuple[int, int]:
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next(line.partition(":")[2] for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), int(length)
