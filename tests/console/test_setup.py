"""What the setup page asks for: checks, the number at a simulated Twilio, trial settings; and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.routing import Router

from phoneagent import Agent, Endpoint, Settings, hang_up
from phoneagent.console.access import Access
from phoneagent.console.gate import Gate
from phoneagent.console.setup import MAX_BODY_BYTES, PATH, Setup, tunnel_of
from phoneagent.doctor.checks import Check, failed, ok
from phoneagent.sim import TwilioRest
from tests.asgi import Answer, scope
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

TOKEN = {"Authorization": "Bearer let-me-in", "Content-Type": "application/json"}
ACCOUNT, SECRET, NUMBER = "AC" + "1" * 32, "the-auth-token", "+15550100002"
OLD = {"voice_url": "https://me:secret@old.example/voice?key=secret"}
AGENT = Agent(name="host", instructions="You answer.", tools=[hang_up])


async def examine() -> AsyncGenerator[Check]:
    yield ok("settings", "complete")
    yield failed("model", "the key is refused: check OPENAI_API_KEY")


class App:
    """What the page knows of an app, and an ASGI app that has the page."""

    def __init__(self, *, agent: Any = AGENT, examine: Any = examine, **changes: Any) -> None:
        given = {
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": SECRET,
            "public_url": "https://mine.ngrok.app",
            "realtime_url": "ws://unused",
            "twilio_phone_number": NUMBER,
        }
        self.settings = Settings(**given | changes)
        self.agent = agent
        self.examine = examine
        self.endpoint = Endpoint("wss://api.openai.com/v1/realtime?model=gpt-realtime")
        self.setup = Setup(self)
        self.asgi: Any = Router(self.setup.routes(Gate(Access(SecretStr("let-me-in"), local=False), Router())))

    async def ask(
        self, method: str, path: str, body: Any = None, *, query: str = "", headers: Mapping[str, str] = TOKEN
    ) -> tuple[int, Any]:
        answer = await self.answer(method, path, body, query=query, headers=headers)
        return answer.status, json.loads(answer.text)

    async def answer(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        options.setdefault("headers", TOKEN)
        async with asyncio.timeout(HANG_SECONDS):
            await self.asgi({**scope("http", f"{PATH}{path}", **options), "method": method}, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:]).decode())


@pytest.fixture
async def twilio() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=SECRET) as rest:
        yield rest
        assert rest.violations == []


# --- access ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/checks"),
        ("POST", "/checks"),
        ("GET", "/number"),
        ("POST", "/webhook"),
        ("GET", "/trial"),
        ("PUT", "/trial"),
        ("DELETE", "/trial"),
    ],
)
async def test_nothing_is_done_without_the_token(method: str, path: str) -> None:
    app = App()
    answer = await app.answer(method, path, {"confirm": True}, headers={})
    assert answer.status in (303, 401)  # a page leads to the sign-in
    assert app.setup.trials.current is None


async def test_the_page_has_no_script_inside() -> None:
    answer = await App().answer("GET", "")
    assert answer.status == 200
    assert "setup.js" in answer.text
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


# --- the checks ---


async def test_the_checks_are_run_once_and_returned() -> None:
    app = App()
    status, report = await app.ask("GET", "/checks")
    assert status == 200
    assert not report["running"]
    assert [(each["name"], each["status"], each["copy"]) for each in report["checks"]] == [
        ("settings", "ok", None),
        ("model", "failed", "OPENAI_API_KEY="),
    ]
    answer = await app.answer("POST", "/checks")
    assert (answer.status, answer.headers["retry-after"]) == (429, "5")
    assert await app.ask("GET", "/checks", query="after=1") == (200, report)


async def test_they_are_run_again_on_demand() -> None:
    status, report = await App().ask("POST", "/checks")
    assert (status, report["running"]) == (202, True)


@pytest.mark.parametrize("after", ["-1", "x", "1000", "%C2%B2"])
async def test_an_odd_position_is_refused(after: str) -> None:
    status, problem = await App().ask("GET", "/checks", query=f"after={after}")
    assert status == 400
    assert "after must be a number" in problem["detail"]


async def test_without_a_doctor_the_page_says_how_to_call_one() -> None:
    for method in ("GET", "POST"):
        status, problem = await App(examine=None).ask(method, "/checks")
        assert status == 404
        assert "run `phoneagent doctor`" in problem["detail"]
    App(examine=None).setup.end()


# --- the number ---


async def test_the_number_is_pointed_here(twilio: TwilioRest) -> None:
    sid = twilio.add_number(NUMBER, **OLD)
    app = App(twilio_api_url=twilio.url)
    status, before = await app.ask("GET", "/number")
    assert status == 200
    assert before == {
        "number": "+1••••••02",
        "problem": None,
        "public_url": "https://mine.ngrok.app",
        "tunnel": "ngrok",
        "voice_url": "https://mine.ngrok.app/twilio/voice",
        "webhook": {
            "voice_url": "https://…@old.example/voice?…",
            "points_here": False,
            "taken_by": None,
            "has_voice": True,
        },
    }
    status, done = await app.ask("POST", "/webhook", {"confirm": True})
    assert (status, done["before"]) == (200, "https://…@old.example/voice?…")
    assert twilio.numbers[sid]["voice_url"].startswith("https://mine.ngrok.app/twilio/voice#")
    assert twilio.numbers[sid]["status_callback"].startswith("https://mine.ngrok.app/twilio/status#")
    assert done["fallback_kept"] is None
    assert (await app.ask("GET", "/number", query="numbers=full"))[1]["number"] == NUMBER
    assert (await app.ask("GET", "/number"))[1]["webhook"]["points_here"] is True


async def test_what_the_number_had_besides_stays_or_is_told(twilio: TwilioRest) -> None:
    fallback, told = "https://me:word@fallback.example/person?key=1", "https://me:word@old.example/status"
    sid = twilio.add_number(NUMBER, **{**OLD, "voice_fallback_url": fallback, "status_callback": told})
    app = App(twilio_api_url=twilio.url)
    _, done = await app.ask("POST", "/webhook", {"confirm": True})
    assert done["fallback_kept"] == "https://…@fallback.example/person?…"
    assert done["status_callback_before"] == "https://…@old.example/status"
    assert twilio.numbers[sid]["voice_fallback_url"] == fallback
    _, again = await app.ask("POST", "/webhook", {"confirm": True})
    assert (again["fallback_kept"], again["status_callback_before"]) == (done["fallback_kept"], None)
    twilio.numbers[sid]["status_callback"] = "https://mine.ngrok.app/twilio/status"  # as an earlier version wrote it
    _, again = await app.ask("POST", "/webhook", {"confirm": True})
    assert again["status_callback_before"] is None
    assert "#" in twilio.numbers[sid]["status_callback"]


@pytest.mark.parametrize("body", [{}, {"confirm": False}, {"confirm": "yes"}, {"confirm": True, "url": "x"}, b"", []])
async def test_nothing_is_pointed_without_a_confirmation(twilio: TwilioRest, body: Any) -> None:
    sid = twilio.add_number(NUMBER, **OLD)
    status, _ = await App(twilio_api_url=twilio.url).ask("POST", "/webhook", body)
    assert status == 400
    assert twilio.numbers[sid]["voice_url"] == OLD["voice_url"]


async def test_a_page_of_another_site_points_nothing(twilio: TwilioRest) -> None:
    sid = twilio.add_number(NUMBER, **OLD)
    app = App(twilio_api_url=twilio.url)
    gate = Gate(Access(None, local=True), Router())
    app.asgi = Router(app.setup.routes(gate))
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = await app.answer("POST", "/webhook", {"confirm": True}, headers=headers)
        assert answer.status in (403, 404)
    assert twilio.numbers[sid]["voice_url"] == OLD["voice_url"]


async def test_a_number_that_something_else_takes_is_left_alone(twilio: TwilioRest) -> None:
    twilio.add_number(NUMBER, **OLD, trunk_sid="TK" + "1" * 32)
    app = App(twilio_api_url=twilio.url)
    assert "SIP trunk" in (await app.ask("GET", "/number"))[1]["webhook"]["taken_by"]
    status, problem = await app.ask("POST", "/webhook", {"confirm": True})
    assert status == 502
    assert "remove it in the Twilio console" in problem["detail"]


async def test_a_number_of_another_account_is_said(twilio: TwilioRest) -> None:
    app = App(twilio_api_url=twilio.url)
    status, found = await app.ask("GET", "/number")
    assert (status, found["webhook"]) == (200, None)
    assert "not a number of this account" in found["problem"]
    assert NUMBER not in str(found)


async def test_without_a_number_or_an_account_there_is_nothing_to_point() -> None:
    for changes, words in (({"twilio_phone_number": None}, "is not set"), ({"insecure": True}, "--insecure")):
        app = App(**changes)
        assert words in (await app.ask("GET", "/number"))[1]["problem"]
        status, problem = await app.ask("POST", "/webhook", {"confirm": True})
        assert status == 409
        assert words in problem["detail"]


def test_tunnels_are_known_by_their_hosts() -> None:
    assert tunnel_of("https://a-b.trycloudflare.com/x") == "cloudflared"
    assert tunnel_of("https://ngrok.app") == "ngrok"
    assert tunnel_of("https://ngrok.app.example") is None


# --- trial settings ---


async def test_a_trial_is_set_shown_as_python_and_dropped() -> None:
    app = App()
    status, before = await app.ask("GET", "/trial")
    assert (status, before["trial"], before["python"]) == (200, None, None)
    agent = before["agent"]
    assert (agent["name"], agent["voice"], agent["model"]) == ("host", "marin", "gpt-realtime")
    assert [each["name"] for each in agent["tools"]] == ["hang_up"]
    trial = {"voice": "cedar", "tools_off": ["hang_up"], "turn_detection": {"type": "semantic_vad"}}
    status, after = await app.ask("PUT", "/trial", trial)
    assert (status, after["trial"]) == (200, trial)
    assert "voice=Voice('cedar')" in after["python"]
    assert app.setup.trials.current is not None
    assert (await app.ask("GET", "/trial"))[1] == after
    assert (await app.ask("DELETE", "/trial"))[1]["trial"] is None
    assert app.setup.trials.current is None


async def test_what_cannot_be_tried_leaves_the_trial_before() -> None:
    app = App()
    await app.ask("PUT", "/trial", {"voice": "cedar"})
    before = app.setup.trials.current
    for body, words in (
        ({"voice": "bob"}, "no voice 'bob'"),
        ({"tools_off": ["book"]}, "no tool 'book'"),
        ({"speed": 9}, "from 0.25 to 1.5"),
        ({"colour": "red"}, "colour"),
        ({"instructions": "caf\udce9"}, "not JSON"),
        (b'{"voice": ', "not JSON"),
        (b"\xff", "not JSON"),
        (b" " * (MAX_BODY_BYTES + 1), "larger than 256 KiB"),
    ):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, problem = await app.ask("PUT", "/trial", data)
        assert status == (413 if "larger" in words else 400)
        assert words in problem["detail"], body
    assert app.setup.trials.current is before


async def test_an_empty_trial_is_none() -> None:
    app = App()
    await app.ask("PUT", "/trial", {"voice": "cedar"})
    assert (await app.ask("PUT", "/trial", {}))[1]["trial"] is None
    assert app.setup.trials.current is None


async def test_of_an_agent_that_each_call_chooses_only_the_model_is_shown() -> None:
    app = App(agent=lambda call: AGENT)
    agent = (await app.ask("GET", "/trial"))[1]["agent"]
    assert set(agent) == {"model", "voices"}
    assert (await app.ask("PUT", "/trial", {"voice": "cedar"}))[0] == 200
