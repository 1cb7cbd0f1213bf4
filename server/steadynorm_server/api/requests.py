"""Request bodies as bytes, bounded while they arrive: a chunked body states no length beforehand."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import Request
from starlette.responses import Response

from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import MAX_BATCH_BYTES
from steadynorm_server.errors import ProblemError

__all__ = ["JSON", "MAX_SMALL_BYTES", "MESSAGE_PACK", "json_response", "read_body"]

JSON = ("application/json", "application/x-www-form-urlencoded")  # the latter is what `curl -d` says unless told
MESSAGE_PACK = ("application/msgpack", "application/vnd.msgpack", "application/x-msgpack", "application/octet-stream")
MAX_SMALL_BYTES = 64 * 1024
MAX_DEPTH = 32
"""Of lists and objects within each other in people's JSON. Agents' messages have types all the way down."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")


async def read_body(request: Request, kinds: tuple[str, ...], limit: int = MAX_BATCH_BYTES) -> bytes:
    """The body.

    Raises problems: 415 for another kind or a compressed one, 413 beyond `limit` bytes, 408 if late, 400 if empty.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in kinds:
        raise ProblemError(415, f"this takes {kinds[0]}: got {kind}.")
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise ProblemError(415, f"bodies are taken uncompressed: got Content-Encoding {encoding}.")
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and len(stated) < 20 and int(stated) > limit:
        raise _too_large(limit)
    within_s: float = request.app.state.settings.request_within_s
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                if len(body) + len(part) > limit:
                    raise _too_large(limit)
                body += part
    except TimeoutError:
        raise ProblemError(
            408, f"the body did not arrive within {within_s:g} s. Send it again.", headers={"Connection": "close"}
        ) from None
    if not body:
        raise ProblemError(400, "a body is needed. /docs shows what it holds.")
    if kinds is JSON and limit <= MAX_SMALL_BYTES:
        _check_depth(bytes(body))
    return bytes(body)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A contract struct as JSON."""
    return Response(encode_json(value), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ProblemError(400, f"JSON may have at most {MAX_DEPTH} lists and objects within each other.")


def _too_large(limit: int) -> ProblemError:
    # The rest is not read: the connection has to go.
    return ProblemError(
        413, f"a body may have at most {limit} bytes. Send smaller batches.", headers={"Connection": "close"}
    )
