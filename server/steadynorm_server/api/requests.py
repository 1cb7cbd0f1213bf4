"""Request bodies in, JSON out. Bodies are bounded while they arrive: a chunked one states no length.

Starlette's max_body_size is not used: it replaces every response to a request that is too long, a 401 and our problem
JSON too, by a plain text of its own (starlette/middleware/body_limit.py, send_with_limit).
"""

import asyncio
import re
import zlib
from typing import TypeVar

from fastapi import Request, Response

from steadynorm_contract.codec import decode_json, encode_json
from steadynorm_contract.telemetry import MAX_BATCH_BYTES
from steadynorm_server.errors import ProblemError

JSON = ("application/json", "application/x-www-form-urlencoded")  # the latter is the default of `curl -d`
MESSAGE_PACK = ("application/msgpack", "application/vnd.msgpack", "application/x-msgpack", "application/octet-stream")
MAX_SMALL_BYTES = 64 * 1024
MAX_DEPTH = 32
"""Nesting of lists and objects in people's JSON. Agents' messages have types all the way down."""
_T = TypeVar("_T")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")


async def read_body(
    request: Request, kinds: tuple[str, ...], limit: int = MAX_BATCH_BYTES, *, compressed: bool = False
) -> bytes:
    """The body. compressed: it may be gzip, whose `limit` holds for what it expands to.

    Raises problems: 415 for another media type or compression, 413 beyond `limit` bytes, 408 if late, 400 if empty or
    no gzip.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in kinds:
        raise ProblemError(415, f"Content-Type must be {kinds[0]}: got {kind}.")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", *(["gzip"] if compressed else [])):
        accepted = "uncompressed or gzip" if compressed else "uncompressed"
        raise ProblemError(415, f"bodies must be {accepted}: got Content-Encoding {encoding}.")
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and len(stated) < 20 and int(stated) > limit:
        raise _too_large(limit)
    within_s: float = request.app.state.config.request_within_s
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
        raise ProblemError(400, "a body is required. /docs shows its fields.")
    if kinds is JSON and limit <= MAX_SMALL_BYTES:
        _check_depth(bytes(body))
    return _expand(bytes(body), limit) if encoding == "gzip" else bytes(body)


async def read_json(request: Request, kind: type[_T], limit: int = MAX_SMALL_BYTES) -> _T:
    """The JSON body as a contract struct. Raises the problems of `read_body`, and MalformedMessage."""
    return decode_json(await read_body(request, JSON, limit), kind)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A contract struct as JSON."""
    return Response(encode_json(value), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def location(request: Request, path: str) -> str:
    """The address of what was made, below the path under which a proxy offers this server."""
    return f"{request.scope.get('root_path', '')}/api/v1{path}"


def _expand(data: bytes, limit: int) -> bytes:
    """gzip, expanded to `limit` bytes at most, whatever it claims."""
    expander = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        expanded = expander.decompress(data, limit)
    except zlib.error as error:
        raise ProblemError(400, f"the body is not gzip, which its Content-Encoding says: {error}.") from None
    if expander.unconsumed_tail:
        raise _too_large(limit)
    if not expander.eof or expander.unused_data:
        raise ProblemError(400, "the body must be one whole gzip member: it is cut off, or more follows.")
    return expanded


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ProblemError(400, f"JSON may nest at most {MAX_DEPTH} lists and objects.")


def _too_large(limit: int) -> ProblemError:
    # The rest is not read: the connection has to go.
    advice = "Send smaller batches." if limit == MAX_BATCH_BYTES else "Send less."
    return ProblemError(413, f"a body may have at most {limit} bytes. {advice}", headers={"Connection": "close"})
