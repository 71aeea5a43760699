"""Acting on a call over HTTP: what each action does to a real call, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from phoneagent import Agent, Call, CallControlled, MessageAdded, PhoneApp, transfer
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.steps import Transfer
from phoneagent.calls.outbound import MAX_KEY_CHARS
from phoneagent.calls.session import Session
from phoneagent.console import commands, playing
from phoneagent.console.actions import MAX_TEXT_CHARS
from phoneagent.console.body import MAX_BODY_BYTES
from phoneagent.protocol.realtime import ItemCreate, ResponseCreate
from phoneagent.store.records import Standing
from tests.asgi import Answer, request
from tests.calls.shell import Journal, Running
from tests.console.test_api import TOKEN, app_with, with_token
from tests.console.test_playing import wav

pytestmark = pytest.mark.anyio
SENT = {**TOKEN, "Content-Type": "application/json"}
BODIES: dict[str, Any] = {
    "say": {"text": "Hello!"},
    "note": {"text": "They are a member."},
    "interrupt": {},
    "mute": {"muted": True},
    "hang-up": {},
    "play": {"wav": base64.b64encode(wav(seconds=1)).decode(), "text": "A word from us."},
    "send-digits": {"digits": "1w2#"},
    "transfer": {"to": "client:anna", "name": "Anna"},
}


async def post(app: PhoneApp, name: str, body: Any, headers: dict[str, str] = SENT, sid: str = "CA1") -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await request(app, "POST", f"/calls/{sid}/{name}", body=content, headers=headers)


def take_in(app: PhoneApp, running: Running) -> Session:
    """Make a call one of the app's live calls."""
    app.calls["CA1"] = running.call
    app._parts.calls._sessions["CA1"] = running.session
    return running.session


def detail(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(json.loads(answer.text)["detail"])


def prompts(running: Running) -> list[str]:
    items = [each.item for each in running.models[0].sent if isinstance(each, ItemCreate)]
    return [item["content"][0]["text"] for item in items]


def creates(running: Running) -> list[ResponseCreate]:
    return [each for each in running.models[0].sent if isinstance(each, ResponseCreate)]


async def test_the_agent_says_exactly_these_words_or_the_same_in_its_own() -> None:
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        answer = await post(app, "say", {"text": "The line is recorded.", "interruptible": False})
        assert (answer.status, answer.headers["cache-control"]) == (202, "no-store")
        assert json.loads(answer.text) == {"call_sid": "CA1", "operation": "say", "muted": False}
        assert "exactly" in prompts(running)[0]
        assert "The line is recorded." in prompts(running)[0]
        assert running.session.bridge.responses.protected
        answer = await post(app, "say", {"text": "We close at nine.", "exactly": False})
        assert answer.status == 202
        assert running.session.bridge.responses.waits_for("asked")
        assert "in your own words" in prompts(running)[1]
        assert [each.operation for each in running.events(CallControlled)] == ["say", "say"]
        app.calls.clear()


async def test_a_note_is_added_and_not_answered() -> None:
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        assert (await post(app, "note", BODIES["note"])).status == 202
        assert prompts(running) == ["They are a member."]
        assert creates(running) == []
        assert [type(each) for each in running.told[-2:]] == [CallControlled, MessageAdded]
        app.calls.clear()


async def test_the_agent_is_muted_and_heard_again() -> None:
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        for muted in (True, True, False):
            answer = await post(app, "mute", {"muted": muted})
            assert json.loads(answer.text)["muted"] is muted
            assert running.call.muted is muted
            shown = json.loads((await request(app, "GET", "/calls", headers=TOKEN)).text)["calls"][0]
            assert shown["muted"] is muted
        assert [each.operation for each in running.events(CallControlled)] == ["mute", "mute", "unmute"]
        app.calls.clear()


async def test_a_call_is_hung_up_once_and_a_call_about_to_end_takes_nothing_else() -> None:
    app = with_token()
    async with Running() as running:
        session = take_in(app, running)
        for _ in range(2):
            assert (await post(app, "hang-up", {})).status == 202
        assert session.bridge.floor() is Floor.CLOSING
        assert [each.operation for each in running.events(CallControlled)] == ["hang-up"]
        for name in BODIES.keys() - {"hang-up"}:
            answer = await post(app, name, BODIES[name])
            assert answer.status == 409
            assert "about to end" in detail(answer)
        app.calls.clear()


async def test_the_agent_is_interrupted() -> None:
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        model = running.models[0]
        model.says("response.created", response={"id": "r1", "status": "in_progress"})
        model.speaks()
        await running.until(lambda: running.session.bridge.floor() is Floor.AGENT)
        assert (await post(app, "interrupt", {})).status == 202
        assert running.session.bridge.floor() is not Floor.AGENT
        app.calls.clear()


def sounds(running: Running) -> list[str]:
    """The texts of the sounds of ours that wait or were heard."""
    waiting = running.session.bridge.responses._wanted
    return [each.sound.text for each in waiting if each.sound is not None]


async def test_a_recording_is_played_and_keys_are_pressed() -> None:
    app = with_token()
    async with Running() as running:
        session = take_in(app, running)
        running.call.mute()  # so that they wait
        for name in ("play", "send-digits"):
            answer = await post(app, name, BODIES[name])
            assert (answer.status, json.loads(answer.text)["muted"]) == (202, True)
        assert sounds(running) == ["A word from us.", "[keys pressed: 3]"]
        assert [each.sound.protected for each in session.bridge.responses._wanted if each.sound] == [False, True]
        assert (
            await post(app, "play", {**BODIES["play"], "interruptible": False, "text": "", "name": "x"})
        ).status == 202
        assert sounds(running)[2] == "[x]"
        assert [each.operation for each in running.events(CallControlled)] == ["play", "send-digits", "play"]
        app.calls.clear()


async def test_a_call_is_transferred_once() -> None:
    app, agent = with_token(), Agent(instructions="x", tools=[transfer(to={"billing": "+12025550107"}, timeout=45)])
    async with Running(agent, journal=Journal()) as running:
        session = take_in(app, running)
        keyed = {**SENT, "Idempotency-Key": "one"}
        answers = [await post(app, "transfer", {"to": "billing"}, keyed) for _ in range(3)]
        assert [each.status for each in answers] == [202] * 3  # as after a lost answer
        assert {each.text for each in answers} == {'{"call_sid":"CA1","operation":"transfer","muted":false}'}
        step = session.bridge.closing.step("MZ1")
        assert isinstance(step, Transfer)
        assert (step.to, step.name, step.timeout) == ("+12025550107", "billing", 45)
        again = await post(app, "transfer", {"to": "billing"})
        assert (again.status, "about to end" in detail(again)) == (409, True)
        assert [each.operation for each in running.events(CallControlled)] == ["transfer"]
        assert "+12025550107" not in str(running.told)
        app.calls.clear()


async def test_a_transfer_that_cannot_be_done_is_not_reported_as_one() -> None:
    app = with_token()
    async with Running() as running:  # without a database
        take_in(app, running)
        for body, status in (
            ({"to": "client:anna"}, 409),
            ({"to": "112"}, 422),
            ({"to": "client:anna", "timeout": 1}, 400),
        ):
            assert (await post(app, "transfer", body)).status == status
        assert running.events(CallControlled) == []
        app.calls.clear()


async def test_a_call_that_ends_while_a_recording_is_converted_is_over() -> None:
    app = with_token(store=Recorded())
    async with Running() as running:
        take_in(app, running)
        actions_of = app._parts.console._operations["/calls/{sid}/play"]["POST"].answer.func.__self__  # type: ignore[union-attr]
        async with actions_of._preparing:  # another recording is being converted
            waiting = asyncio.create_task(post(app, "play", BODIES["play"]))
            await running.until(lambda: actions_of._preparing._waiters)
            app.calls.clear()
        assert "is over" in detail(await waiting)
        assert running.events(CallControlled) == []


async def test_two_equal_requests_at_once_are_done_once() -> None:
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        running.call.mute()
        keyed = {**SENT, "Idempotency-Key": "one"}
        answers = await asyncio.gather(*(post(app, "play", BODIES["play"], keyed) for _ in range(5)))
        assert {each.status for each in answers} == {202}
        assert len(sounds(running)) == 1
        app.calls.clear()


@pytest.mark.parametrize(
    ("name", "body", "status", "said"),
    [
        ("play", {}, 400, "missing required field `wav`"),
        ("play", {"wav": "https://evil.example/a.wav"}, 400, "base64"),
        ("play", {"wav": ""}, 400, "$.wav"),
        ("play", {"wav": "AAAA"}, 400, "not a WAV file"),
        ("play", {"wav": BODIES["play"]["wav"], "url": "https://evil.example/"}, 400, "unknown field `url`"),
        ("play", b'{"wav": "' + b"A" * playing.MAX_BODY_BYTES + b'"}', 413, "960 KiB"),
        ("send-digits", {"digits": ""}, 400, "$.digits"),
        ("send-digits", {"digits": "12e"}, 400, "$.digits"),
        ("send-digits", {"digits": "12\n"}, 400, "takes 1 to 100 keys"),
        ("send-digits", {"digits": "1" * 101}, 400, "$.digits"),
        ("transfer", {}, 400, "missing required field `to`"),
        ("transfer", {"to": ""}, 400, "$.to"),
        ("transfer", {"to": "x" * 257}, 400, "$.to"),
        ("transfer", {"to": "client:anna", "warm": "yes"}, 400, "$.warm"),
        ("transfer", {"to": "client:anna", "timeout": 121}, 400, "$.timeout"),
        ("transfer", {"to": "client:anna", "caller_id": "+15550100001"}, 400, "$.caller_id"),
        ("transfer", {"to": "client:anna", "conference": "x"}, 400, "unknown field `conference`"),
    ],
)
async def test_what_an_action_cannot_use_is_refused(name: str, body: Any, status: int, said: str) -> None:
    app = with_token()
    async with Running(journal=Journal()) as running:
        take_in(app, running)
        answer = await post(app, name, body)
        assert answer.status == status
        assert said in detail(answer)
        assert running.events(CallControlled) == []
        app.calls.clear()


async def test_a_request_that_comes_again_with_its_key_is_done_once() -> None:
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        keyed = {**SENT, "Idempotency-Key": "one"}
        for _ in range(3):
            assert (await post(app, "note", BODIES["note"], keyed)).status == 202
        assert len(prompts(running)) == 1
        answer = await post(app, "note", {"text": "Another."}, keyed)
        assert (answer.status, "make a new one" in detail(answer)) == (409, True)
        assert (await post(app, "note", {"text": "Another."}, {**SENT, "Idempotency-Key": "two"})).status == 202
        assert len(prompts(running)) == 2
        for key in ("", "x" * (MAX_KEY_CHARS + 1)):  # an empty one is no key: all requests would have the same
            assert (await post(app, "note", BODIES["note"], {**SENT, "Idempotency-Key": key})).status == 400
        app.calls.clear()


@pytest.mark.parametrize("moves", [True, False])
async def test_nothing_is_taken_for_a_media_stream_that_is_over_and_still_closing(moves: bool) -> None:
    app = with_token()
    async with Running(journal=Journal()) as running:
        session = take_in(app, running)
        if moves:
            session.hand_over_now("the server is leaving")
        else:
            session.end("caller", "the caller hung up")
        for name, body in BODIES.items():
            assert (await post(app, name, body)).status == 404  # no database tells where it is
        assert running.events(CallControlled) == []
        app.calls.clear()


async def test_keys_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_KEYS", 2)
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        for key in ("1", "2", "3", "1"):
            assert (await post(app, "note", BODIES["note"], {**SENT, "Idempotency-Key": key})).status == 202
        assert len(prompts(running)) == 4
        app.calls.clear()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"text": "\\ud800"}', 400, "body"),
        (b"[" * 10_000, 400, "body"),
        ({}, 400, "missing required field `text`"),
        ({"text": ""}, 400, "length"),
        ({"text": " \n "}, 400, "$.text"),
        ({"text": "x" * (MAX_TEXT_CHARS + 1)}, 400, "length"),
        ({"text": 5}, 400, "$.text"),
        ({"text": "Hi", "loud": True}, 400, "unknown field"),
        ({"text": "Hi", "exactly": "no"}, 400, "$.exactly"),
        ({"text": "Hi", "exactly": False, "interruptible": False}, 400, "leave out interruptible"),
        (b'"' + b"x" * MAX_BODY_BYTES + b'"', 413, "64 KiB"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_and_nothing_is_done(body: Any, status: int, said: str) -> None:
    app = with_token()
    async with Running() as running:
        take_in(app, running)
        answer = await post(app, "say", body)
        assert answer.status == status
        assert said in detail(answer)
        assert running.events(CallControlled) == []
        app.calls.clear()


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_only_json_is_taken(kind: str) -> None:
    answer = await post(with_token(), "hang-up", {}, {**TOKEN, "Content-Type": kind})
    assert answer.status == 415
    assert "Content-Type: application/json" in detail(answer)


class Recorded:
    """A store that has one call, which is over."""

    empty = False

    def __init__(self) -> None:
        self.outbound, self.campaigns = SimpleNamespace(), SimpleNamespace(barred=None)

    def __getattr__(self, name: str) -> None:
        """What else a store has is not asked for here."""

    async def standing(self, call_sid: str) -> Standing:
        return Standing(stream_sid="MZ1", ended_by="caller") if call_sid == "CA1" else Standing()


@pytest.mark.parametrize("name", BODIES)
async def test_a_call_that_is_not_here_is_refused_with_what_is_known_of_it(name: str) -> None:
    assert (await post(with_token(), name, BODIES[name])).status == 404
    app = with_token(store=Recorded())
    answer = await post(app, name, BODIES[name])
    assert (answer.status, "is over" in detail(answer)) == (409, True)
    assert (await post(app, name, BODIES[name], sid="CA9")).status == 404


@pytest.mark.parametrize("name", BODIES)
async def test_a_call_that_no_agent_has_on_the_telephone(name: str) -> None:
    app = with_token()
    app.calls["CA1"] = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
    answer = await post(app, name, BODIES[name])
    assert (answer.status, "web calls and calls between two people" in detail(answer)) == (409, True)


@pytest.mark.parametrize("name", BODIES)
async def test_a_stranger_learns_and_does_nothing(name: str) -> None:
    assert (await post(with_token(), name, BODIES[name], {"Content-Type": "application/json"})).status == 401
    assert (await post(app_with(), name, BODIES[name])).status == 404
    assert (await request(with_token(), "GET", f"/calls/CA1/{name}", headers=TOKEN)).status == 405


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example:8000"}]
)
async def test_a_page_of_another_site_cannot_act_on_a_call_of_this_machine(headers: dict[str, str]) -> None:
    app = app_with(insecure=True)
    async with Running() as running:
        take_in(app, running)
        given = {"Content-Type": "application/json", **headers}
        assert (await post(app, "hang-up", {}, given)).status == 404
        assert running.events(CallControlled) == []
        assert (await post(app, "note", BODIES["note"], {"Content-Type": "application/json"})).status == 202
        app.calls.clear()
