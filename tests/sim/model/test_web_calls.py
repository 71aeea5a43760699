"""What the simulated model refuses of calls by WebRTC, so that a page and its server find their mistakes."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from phoneagent.sim import Model

pytest.importorskip("aiortc", reason="the extra `web` is not installed")
pytestmark = pytest.mark.anyio
SDP = {"Content-Type": "application/sdp"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def post(model: Model, path: str, key: str, **options: Any) -> tuple[int, Any, Any]:
    headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
    async with (
        aiohttp.ClientSession() as http,
        http.request(
            options.pop("method", "POST"), f"{model.base_url}/realtime/{path}", headers=headers, **options
        ) as r,
    ):
        content = await r.read()
        return r.status, json.loads(content) if content.startswith(b"{") else content, r.headers


async def secret(model: Model) -> str:
    _, made, _ = await post(model, "client_secrets", "key", json={"session": {"type": "realtime"}})
    return str(made["value"])


async def test_offers_that_are_refused() -> None:
    async with Model(api_key="key") as model:
        ek = await secret(model)
        cases: list[tuple[str, str, dict[str, Any], int, str]] = [
            ("calls", "wrong", {"data": b"v=0", "headers": SDP}, 401, "invalid_api_key"),
            ("calls", "key", {"data": b"v=0", "headers": SDP}, 400, "missing_required_parameter"),
            ("calls", ek, {"data": b"v=0", "headers": SDP}, 400, "invalid_offer"),
            ("calls", ek, {"data": b"\xff\xfe", "headers": SDP}, 400, "invalid_offer"),
            ("calls?model=gpt-realtime", ek, {"data": b"v=0", "headers": SDP}, 400, "unknown_parameter"),
            ("calls", ek, {"json": {}}, 400, "unsupported_content_type"),
            ("calls/rtc_none/hangup", "key", {}, 404, "call_not_found"),
            ("calls/rtc_none/juggle", "key", {}, 404, "call_not_found"),
            ("calls", ek, {"method": "PUT", "data": b"", "headers": SDP}, 405, "method_not_allowed"),
        ]
        for path, key, options, status, said in cases:
            answer = await post(model, path, key, **options)
            assert (answer[0], answer[1]["error"]["code"]) == (status, said), path
        form = aiohttp.FormData({"sdp": "v=0", "session": json.dumps({"type": "realtime", "voice": "x"})})
        form.add_field("more", b"x", filename="x")
        assert (await post(model, "calls", "key", data=form))[1]["error"]["param"] == "session.voice"
        tools = [{"type": "mcp", "server_label": "shop"}]
        form = aiohttp.FormData({"sdp": "v=0", "session": json.dumps({"type": "realtime", "tools": tools})})
        form.add_field("more", b"x", filename="x")
        assert (await post(model, "calls", "key", data=form))[1]["error"]["param"] == "session.tools[0].server_url"
        assert model.sessions == []


async def test_a_page_on_another_site_may_ask() -> None:
    async with Model(api_key="key") as model:
        status, _, headers = await post(model, "calls", "", method="OPTIONS")
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, "*")
        assert "authorization" in headers["Access-Control-Allow-Headers"]
        answer = await post(model, "calls", await secret(model), data=b"v=0", headers=SDP)
        assert answer[2]["Access-Control-Allow-Origin"] == "*"


async def test_there_is_no_side_band_to_a_call_that_is_not_there() -> None:
    async with Model() as model:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{model.url}?call_id=rtc_none")
        assert refused.value.response.status_code == 404
