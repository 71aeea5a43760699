"""The app: what it refuses where it is made, its observers, its health, and what it does without settings."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from twilio.request_validator import RequestValidator

from phoneagent import (
    Agent,
    Call,
    CallEnded,
    CallerSpoke,
    CallStarted,
    ConfigurationError,
    DefinitionError,
    Endpoint,
    Event,
    PhoneApp,
    RateLimit,
    RateLimitsUpdated,
    Settings,
    Trouble,
    Turn,
)
from phoneagent.bridge.steps import Pending
from phoneagent.console.access import MAX_TRIES
from phoneagent.server import VOICE_PATH
from tests.asgi import Socket, request, scope

pytestmark = pytest.mark.anyio
AGENT = Agent(instructions="x")
THERE = Endpoint("ws://127.0.0.1:1/v1/realtime?model=m")
STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller="+15550100001", called=None, direction="inbound")


def settings(**changes: Any) -> Settings:
    return Settings(**{"insecure": True, "realtime_url": "ws://127.0.0.1:1/?model=m", **changes})


def app_with(**changes: Any) -> PhoneApp:
    return PhoneApp(AGENT, settings=settings(**changes))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that says nothing of Twilio, of a model or of a database."""
    for name in os.environ:
        if name.startswith(("TWILIO", "OPENAI", "AZURE", "REALTIME", "PUBLIC", "DATABASE", "PHONEAGENT", "HELICONE")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


# --- where it is made ---


def test_what_is_no_agent_is_refused() -> None:
    with pytest.raises(DefinitionError, match="give it an Agent, or a function"):
        PhoneApp("host")  # type: ignore[arg-type]


def in_pieces(call: Call) -> Iterator[Agent]:
    yield AGENT


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"agent": lambda: AGENT}, r"a function that chooses the agent and cannot be called .*: let it take \(call\)"),
        ({"agent": Agent}, r"a function that chooses the agent and cannot be called"),
        ({"agent": in_pieces}, "a function that chooses the agent and is a generator: return the value"),
        ({"settings": {"public_url": "x"}}, r"PhoneApp has settings of type dict: write Settings\(…\)"),
        ({"prices": {"m": 5}}, r"PhoneApp has the price 5 for 'm': write Price\(…\)"),
    ],
)
def test_what_would_fail_in_every_call_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        PhoneApp(**{"agent": AGENT, **given})


def test_hand_offs_are_checked_before_any_call() -> None:
    with pytest.raises(DefinitionError, match="hands off to 'ghost'"):
        PhoneApp(Agent(instructions="x", handoffs=["ghost"]))


def test_endpoints_are_named_in_one_place() -> None:
    with pytest.raises(DefinitionError, match="endpoints="):
        PhoneApp(AGENT, endpoint=THERE, endpoints=[THERE])


@pytest.mark.parametrize(
    "given", [{"endpoint": "wss://host/?key=secret-key"}, {"endpoints": ["wss://host/?key=secret-key"]}]
)
def test_what_is_no_endpoint_is_refused_and_not_repeated(given: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=r"Endpoint\.gateway") as refused:
        PhoneApp(AGENT, **given)
    assert "secret" not in str(refused.value)


def test_the_endpoint_of_code_comes_before_that_of_the_settings() -> None:
    other = Endpoint("ws://127.0.0.1:2/v1/realtime?model=m")
    assert app_with().endpoint.url == "ws://127.0.0.1:1/v1/realtime?model=m"
    assert PhoneApp(AGENT, settings=settings(), endpoint=THERE).endpoint is THERE
    assert PhoneApp(AGENT, settings=settings(), endpoints=[other, THERE]).endpoint is other


@pytest.mark.usefixtures("bare")
def test_settings_are_read_late_and_without_a_model_where_code_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    app, elsewhere = PhoneApp(AGENT), PhoneApp(AGENT, endpoint=THERE)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        _ = app.settings
    for name, value in {"ACCOUNT_SID": "AC" + "0" * 32, "AUTH_TOKEN": "0123456789abcdef"}.items():
        monkeypatch.setenv(f"TWILIO_{name}", value)
    monkeypatch.setenv("PUBLIC_URL", "https://agent.example")
    assert elsewhere.settings.public_url == "https://agent.example"
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        _ = app.settings


def test_calls_are_handed_over_only_where_they_are_recorded() -> None:
    assert not app_with().hands_over
    assert PhoneApp(AGENT, settings=settings(), store=Recorder()).hands_over  # type: ignore[arg-type]


def test_a_hook_stays_the_function_it_is() -> None:
    def hook(event: CallEnded) -> None: ...

    assert app_with().on(CallEnded)(hook) is hook
    with pytest.raises(DefinitionError, match="names no event"):
        app_with().on("CallEnded")
    with pytest.raises(DefinitionError, match="names no event"):
        app_with().on(hook)  # without parentheses


# --- observers ---


class Recorder:
    """A store that keeps what it is told."""

    events = None

    def __init__(self) -> None:
        self.told: list[tuple[Event, str]] = []
        self.closed = False

    def tell(self, event: Event, *, stream_sid: str) -> None:
        self.told.append((event, stream_sid))

    async def claim(self, name: str, seconds: float) -> bool:
        return True

    def keep_state(self, call_sid: str, stream_sid: str, state: str) -> None: ...
    def keep_unfinished(
        self, call_sid: str, stream_sid: str, turns: Sequence[Turn], pending: Pending | None = None
    ) -> None: ...

    async def close(self) -> None:
        self.closed = True


def test_an_event_is_logged_counted_and_recorded_with_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store = Recorder()
    account = {"twilio_account_sid": "AC" + "0" * 32, "twilio_auth_token": "a-token-for-tests"}
    closed = settings(insecure=False, public_url="https://agent.example", **account)  # without the control API
    app = PhoneApp(AGENT, settings=closed, store=store)  # type: ignore[arg-type]
    app._parts.emit(STARTED, "MZ1")
    assert store.told == [(STARTED, "MZ1")]
    assert b"phoneagent_calls_started_total 1.0" in app._parts.metrics.text()
    assert [record.call_sid for record in caplog.records if record.name.startswith("phoneagent")] == ["CA1"]  # type: ignore[attr-defined]
    assert "+15550100001" not in caplog.text


@pytest.mark.parametrize("pii", [False, True])
def test_numbers_are_logged_only_where_the_settings_say_so(pii: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app_with(PHONEAGENT_LOG_PII=pii)._parts.emit(STARTED, "MZ1")
    assert ("+15550100001" in caplog.text) is pii


def test_a_report_of_rate_limits_reaches_the_reserve() -> None:
    app = app_with(rate_limit_reserve=0.5)
    limit = RateLimit(name="tokens", limit=100, remaining=1, reset_seconds=3600)
    assert not app._parts.reserve.short(time.monotonic())
    app._parts.emit(RateLimitsUpdated(call_sid="CA1", at_ms=0, model="m", limits=(limit,)), "MZ1")
    app._parts.emit(CallerSpoke(call_sid="CA1", at_ms=0), "MZ1")
    assert app._parts.reserve.short(time.monotonic())


def test_another_observer_can_be_appended_and_comes_last() -> None:
    app, seen = app_with(), []
    first, event = app._parts.observers[0], Trouble(call_sid="CA1", at_ms=1, what="x")
    app._parts.observers.insert(0, lambda event, stream_sid: seen.append("before"))
    app._parts.observers.append(lambda event, stream_sid: seen.append((event, stream_sid)))
    app._parts.emit(event, "MZ7")
    assert seen == ["before", (event, "MZ7")]
    assert app._parts.observers[1] is first


def test_two_apps_have_observers_of_their_own() -> None:
    one, other, seen = app_with(), app_with(), []
    one._parts.observers.append(lambda event, stream_sid: seen.append(event))
    other._parts.emit(STARTED, "MZ1")
    assert seen == []


# --- health and metrics ---


async def test_health_counts_live_calls() -> None:
    app = app_with()
    assert (await request(app, "GET", "/healthz")).text == '{"status":"ok","calls":0}'
    app.calls["CA1"] = None  # type: ignore[assignment]
    answer = await request(app, "GET", "/healthz")
    assert (answer.status, answer.text) == (200, '{"status":"ok","calls":1}')


async def test_an_app_is_ready_until_it_drains() -> None:
    app = app_with()
    assert (await request(app, "GET", "/readyz")).status == 200
    app.draining = True
    answer = await request(app, "GET", "/readyz")
    assert (answer.status, answer.text) == (503, '{"status":"draining","calls":0}')
    assert (await request(app, "GET", "/healthz")).status == 200  # it lives all the same


async def test_metrics_in_prometheus_format_for_the_token() -> None:
    app = app_with(PHONEAGENT_API_TOKEN=SecretStr("let-me-in"))
    answer = await request(app, "GET", "/metrics", headers={"Authorization": "Bearer let-me-in"})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "phoneagent_calls_live 0.0" in answer.text
    refused = await request(app, "GET", "/metrics")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert "phoneagent_calls_live" not in refused.text


async def test_wrong_tokens_for_the_metrics_and_for_the_control_api_count_together() -> None:
    app = app_with(PHONEAGENT_API_TOKEN=SecretStr("let-me-in"))
    afar = {"X-Forwarded-For": "203.0.113.9"}  # programs on this machine need no token for the control API
    wrong, right = ({**afar, "Authorization": f"Bearer let-me-{word}"} for word in ("out", "in"))
    for number in range(MAX_TRIES):
        assert (await request(app, "GET", ("/metrics", "/calls")[number % 2], headers=wrong)).status == 401
    for path in ("/metrics", "/calls"):
        assert (await request(app, "GET", path, headers=right)).status == 429


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/twilio/after", 405),
        ("GET", "/twilio/status", 405),
        ("POST", "/healthz", 405),
        ("POST", "/twilio/voice/", 404),  # Twilio signs the path as it is: no redirect
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
    ],
)
async def test_other_requests_are_not_answered(method: str, path: str, status: int) -> None:
    assert (await request(app_with(), method, path)).status == status


async def test_twilio_s_request_for_a_path_where_nothing_is_says_what_to_set(caplog: pytest.LogCaptureFixture) -> None:
    account = {"twilio_account_sid": "AC" + "0" * 32, "twilio_auth_token": "a-token-for-tests"}
    app = PhoneApp(AGENT, settings=settings(insecure=False, public_url="https://agent.example", **account))
    form = {"CallSid": "CA" + "1" * 32, "AccountSid": account["twilio_account_sid"]}
    url = "https://agent.example/phone/twilio/voice"
    signature = RequestValidator(account["twilio_auth_token"]).compute_signature(url, form)
    for headers in ({}, {"X-Twilio-Signature": "forged"}, {"X-Twilio-Signature": signature}):
        assert not caplog.records
        answer = await request(app, "POST", "/phone/twilio/voice", form=form, headers=headers)
        assert (answer.status, answer.text) == (404, "Not Found")
    (record,) = caplog.records
    assert "set PUBLIC_URL=https://agent.example/phone," in record.getMessage()


# --- without settings ---


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("path", [VOICE_PATH, "/twilio/after", "/twilio/status"])
async def test_a_webhook_of_a_mounted_app_without_settings_gets_an_error(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await request(PhoneApp(AGENT), "POST", path, form={"CallSid": "CA" + "1" * 32})
    assert (answer.status, answer.text) == (500, "not configured\n")
    assert "TWILIO_AUTH_TOKEN" in caplog.text


@pytest.mark.usefixtures("bare")
async def test_a_media_socket_of_a_mounted_app_without_settings_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    socket = Socket()
    await PhoneApp(AGENT)(scope("websocket", "/twilio/media/token"), socket.receive, socket.send)
    assert socket.did == ["close"]  # before accept: HTTP 403
    assert "TWILIO_AUTH_TOKEN" in caplog.text


@pytest.mark.usefixtures("bare")
async def test_settings_that_are_incomplete_stop_the_start() -> None:
    app = PhoneApp(AGENT)
    with pytest.raises(ConfigurationError, match="TWILIO_AUTH_TOKEN"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it has started")


async def test_the_lifespan_ends_what_it_began() -> None:
    app = app_with()
    before = asyncio.all_tasks()
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0)
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


async def test_the_store_is_closed_at_the_end() -> None:
    store = Recorder()
    app = PhoneApp(AGENT, settings=settings(), store=store)  # type: ignore[arg-type]
    async with app.router.lifespan_context(app):
        assert not store.closed
    assert store.closed


async def test_wrong_settings_are_told_to_another_server_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    monkeypatch.setenv("PORT", "x")
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        told.append(message)

    with pytest.raises(ConfigurationError):
        await PhoneApp(Agent(instructions="x"))({"type": "lifespan", "asgi": {}}, receive, send)
    assert "PORT is malformed: 'x'" in told[0]["message"]
    assert "Traceback" not in told[0]["message"]
