"""The web calls of a process: sessions for pages, each used once, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from phoneagent import (
    Agent,
    Call,
    CallEnded,
    CallStarted,
    DefinitionError,
    Endpoint,
    EndpointUnreachable,
    RequestRefused,
    Turns,
)
from phoneagent.bridge.policy import Policy
from phoneagent.calls import web_calls
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.web_calls import MAX_SESSIONS, SECRET_SECONDS, WebCalls
from phoneagent.events import Event, ModelEvent
from phoneagent.model.web_calls import ClientSecret
from phoneagent.protocol import realtime
from phoneagent.store.forgetting import CALL_SID
from tests.calls.test_web_call import SideBand

pytestmark = pytest.mark.anyio
AGENT = Agent(name="shop", instructions="Be brief.", greeting="Hello!")


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Server:
    """The model's server: what it was asked for, and the sockets to its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions: list[dict[str, Any]] = []
        self.hung_up: list[str] = []
        self.socket = SideBand()
        self.away = False
        monkeypatch.setattr(web_calls, "create_client_secret", self.create)
        monkeypatch.setattr(web_calls, "join_call", self.join)
        monkeypatch.setattr(web_calls, "hang_up_call", self.hang_up)

    async def create(self, endpoint: Endpoint, session: dict[str, Any], call: Call, *, seconds: int) -> ClientSecret:
        await asyncio.sleep(0.1)
        self.sessions.append(session)
        return ClientSecret("ek_1", 0, "https://x.example/v1/realtime/calls")

    async def join(self, endpoint: Endpoint, call_id: str, call: Call) -> SideBand:
        if self.away:
            raise EndpointUnreachable("away")
        return self.socket

    async def hang_up(self, endpoint: Endpoint, call_id: str, call: Call) -> None:
        self.hung_up.append(call_id)


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, answerer: Any = AGENT) -> None:
        self.server = Server(monkeypatch)
        self.hooks = Hooks()
        self.live: dict[str, Call] = {}
        self.events: list[tuple[Event, str]] = []
        self.web = WebCalls(
            answerer,
            lambda: Endpoint.openai("key", "gpt-realtime-2.1"),
            calls=self.live,
            hooks=self.hooks,
            emit=lambda event, stream_sid: self.events.append((event, stream_sid)),
            journal=None,
            policy=Policy(),
        )


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    return lambda *args: Rig(monkeypatch, *args)


async def test_a_call_from_its_key_to_its_end(rig: Callable[..., Rig]) -> None:
    r = rig()
    made = await r.web.create({"shop": "north"})
    assert CALL_SID.fullmatch(made.id)
    detection = r.server.sessions[0]["audio"]["input"]["turn_detection"]
    assert (detection["create_response"], detection["interrupt_response"]) == (True, True)
    await r.web.connect(made.id, "rtc_1")
    await asyncio.sleep(0.1)
    assert r.live[made.id].parameters == {"shop": "north"}
    assert r.live[made.id].direction == "web"
    assert "Hello!" in str(r.server.socket.sent)  # the greeting is asked for
    r.server.socket.events.put_nowait(EndpointUnreachable("closed"))
    await asyncio.sleep(1)
    assert r.live == {}
    assert [type(event) for event, _ in r.events] == [CallStarted, CallEnded]
    assert {stream_sid for _, stream_sid in r.events} == {"rtc_1"}
    assert r.server.hung_up == ["rtc_1"]


async def test_a_session_is_used_once_and_while_its_key_lives(rig: Callable[..., Rig]) -> None:
    r = rig()
    made = await r.web.create({})
    r.server.away = True
    with pytest.raises(EndpointUnreachable):
        await r.web.connect(made.id, "rtc_1")
    r.server.away = False
    await r.web.connect(made.id, "rtc_1")  # the page tried again
    for session_id in (made.id, "WC-unknown"):
        with pytest.raises(RequestRefused):
            await r.web.connect(session_id, "rtc_2")
    made = await r.web.create({})
    await asyncio.sleep(SECRET_SECONDS + 1)
    with pytest.raises(RequestRefused):
        await r.web.connect(made.id, "rtc_3")
    await r.web.close()
    assert r.live == {}


async def test_there_are_only_so_many(rig: Callable[..., Rig]) -> None:
    r = rig()
    outcomes = await asyncio.gather(*(r.web.create({}) for _ in range(MAX_SESSIONS + 20)), return_exceptions=True)
    assert sum(isinstance(outcome, RequestRefused) for outcome in outcomes) == 20
    await asyncio.sleep(SECRET_SECONDS + 1)
    await r.web.create({})


async def test_a_function_chooses_the_agent_by_what_the_page_says(rig: Callable[..., Rig]) -> None:
    def choose(call: Call) -> Agent:
        if call.parameters["shop"] == "none":
            raise KeyError
        return Agent(instructions=call.parameters["shop"], barge_in=False)

    r = rig(choose)
    await r.web.create({"shop": "south"})
    (session,) = r.server.sessions
    assert session["instructions"] == "south"
    assert session["audio"]["input"]["turn_detection"]["interrupt_response"] is False
    with pytest.raises(KeyError):
        await r.web.create({"shop": "none"})
    with pytest.raises(DefinitionError):
        await rig(lambda call: None).web.create({})


async def test_hooks_get_the_model_s_events_if_they_want_them(rig: Callable[..., Rig]) -> None:
    r = rig()
    seen: list[ModelEvent] = []
    r.hooks.add(ModelEvent, seen.append)
    made = await r.web.create({})
    await r.web.connect(made.id, "rtc_1")
    r.server.socket.tell("something.new", detail=7)
    await asyncio.sleep(0.1)
    await r.web.close()
    assert [(event.call_sid, event.data["detail"]) for event in seen] == [(made.id, 7)]


@pytest.mark.parametrize(
    ("agent", "stops", "answered"),
    [
        (Agent(instructions="x"), True, True),
        (Agent(instructions="x", barge_in=False), False, True),
        (Agent(instructions="x", turns=Turns(detection="manual")), False, False),
    ],
)
async def test_speech_means_what_the_agent_says(
    rig: Callable[..., Rig], agent: Agent, stops: bool, answered: bool
) -> None:
    r = rig(agent)
    made = await r.web.create({})
    await r.web.connect(made.id, "rtc_1")
    tell, sent = r.server.socket.tell, r.server.socket.sent
    tell("input_audio_buffer.committed", item_id="u0")
    tell("input_audio_buffer.speech_started", item_id="u1")
    tell("response.created", response={"id": "r1"})
    await asyncio.sleep(0.1)
    assert any(isinstance(each, realtime.ResponseCancel) for each in sent) == stops
    details = {"type": "cancelled", "reason": "turn_detected"}
    tell("response.done", response={"id": "r1", "status": "cancelled", "status_details": details})
    tell("input_audio_buffer.committed", item_id="u1")
    await asyncio.sleep(6)  # the server does not answer it
    assert any(isinstance(each, realtime.ResponseCreate) for each in sent) == answered
    await r.web.close()


async def test_a_process_that_ends_hangs_up_the_calls_of_pages(rig: Callable[..., Rig]) -> None:
    made = rig()
    created = await made.web.create({})
    await made.web.connect(created.id, "rtc_1")
    await asyncio.sleep(0.1)
    await made.web.close()
    assert made.server.hung_up == ["rtc_1"]
