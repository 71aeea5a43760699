"""Requests of any method, byte by byte and in pieces, and the answers that they get."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from phoneagent.sim import Model
from phoneagent.sim.model.http import MAX_BODY_BYTES, answer, refusal
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


async def ask(model: Model, *pieces: bytes) -> tuple[int, Any]:
    """Send a request in pieces; return the status and the JSON of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(model.url).port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # each is a segment of its own
    async with asyncio.timeout(HANG_SECONDS):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_post_with_a_body_is_answered_whatever_pieces_it_comes_in() -> None:
    request = post("/v1/realtime/client_secrets", b'{"session": {"type": "realtime", "instructions": "Be brief."}}')
    async with Model() as model:
        for pieces in ([request], [request[:3], request[3:40], request[40:-10], request[-10:]]):
            status, content = await ask(model, *pieces)
            assert status == 200
            assert content["session"]["instructions"] == "Be brief."


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/realtime/calls", 400, "missing_required_parameter"),
        ("/v1/realtime/calls/rtc_1/accept", 400, "not_supported"),
        ("/v1/realtime/sessions", 400, "beta_api_shape_disabled"),
        ("/v1/realtime/transcription_sessions", 400, "beta_api_shape_disabled"),
        ("/v1/chat/completions", 404, "not_found"),
        ("/v1/realtime", 404, "not_found"),
        ("/v1/models", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_refused_in_the_api_s_shape(path: str, status: int, code: str) -> None:
    async with Model() as model:
        got, content = await ask(model, post(path, b"v=0\r\n", "Content-Type: application/sdp"))
        assert (got, content["error"]["code"]) == (status, code)
        assert set(content["error"]) == {"message", "type", "param", "code"}
        assert model.refusals[0].startswith(f"{status} {code}: ")


async def test_a_body_that_cannot_be_read_is_named() -> None:
    path = "/v1/realtime/client_secrets"
    chunked = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n".encode()
    long = f"POST {path} HTTP/1.1\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode()
    async with Model() as model:
        for request, words in (
            (chunked, "in chunks is not read; send it with a Content-Length"),
            (long, f"a body of {MAX_BODY_BYTES + 1} bytes is not read"),
            (post(path, b"[]"), "not a JSON object"),
            (post(path, b"{"), "not a JSON object"),
        ):
            status, content = await ask(model, request)
            assert (status, content["error"]["code"]) == (400, "invalid_json")
            assert words in content["error"]["message"]
        status, content = await ask(model, f"PUT {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (status, content["error"]["code"]) == (405, "method_not_allowed")


async def test_a_head_that_does_not_end_is_not_kept() -> None:
    async with Model() as model:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(model.url).port)
        writer.write(b"POST / HTTP/1.1\r\n" + b"X: " + b"x" * 200_000)
        async with asyncio.timeout(HANG_SECONDS):
            await reader.read()
        writer.close()


def test_answers_are_json_and_close_the_connection() -> None:
    response = answer(200, {"a": 1})
    assert (response.status_code, response.reason_phrase, response.body) == (200, "OK", b'{"a": 1}')
    assert response.headers["Connection"] == "close"
    error = json.loads(refusal(503, None, "No.", param="p").body or b"")["error"]
    assert error == {"message": "No.", "type": "server_error", "param": "p", "code": None}
