"""Calls that lose their media stream and go on: in another stream of the same call, with what was said before."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from phoneagent import Agent, CallEnded, CallHandedOver, CallStarted, hang_up, tool
from phoneagent.bridge import renewal
from phoneagent.bridge.steps import HangUp, NextStep, Resume
from phoneagent.calls import journal
from phoneagent.errors import StoreError
from phoneagent.sim import Line
from phoneagent.sim.speech import Murmur
from phoneagent.store import CallDetails, Store
from tests.end_to_end.by_hand import CALL_SID, STREAM_SID, after, dial, listen, post, start, stop, told
from tests.end_to_end.conftest import PUBLIC_URL, World, Worlds
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

SCRIPT = """
default = "Yes?"
goodbye = "Goodbye!"
[[turn]]
caller = "A table for two, please."
say = "Of course. For what time, and under which name shall I write it down for you?"
[[turn]]
caller = "At eight."
say = "At eight it is."
[[turn]]
caller = "Thanks, bye."
say = "Goodbye, see you at eight!"
call = "hang_up"
"""
AGENT = Agent(instructions="x", greeting="Hello!", tools=[hang_up])
CLIP = Murmur().render("A table for two, please.")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    kept = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    yield kept
    await kept.close()  # the app has closed it, and the test has looked into it since


def heard_ms(line: Line) -> float:
    return sum(span.end_ms - span.start_ms for span in line.heard)


async def record(w: World, line: Line) -> CallDetails:
    assert w.app._parts.store is not None
    details = await w.app._parts.store.call(line.call_sid)
    assert details is not None
    return details


async def resumed(w: World, streams: int = 2) -> None:
    await w.until(lambda: len(w.of(CallStarted)) == streams)
    assert w.of(CallStarted)[-1].resumed


async def test_a_quiet_call_is_handed_over_without_a_sound(world: Worlds, store: Store) -> None:
    async with world(AGENT, SCRIPT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await line.say(CLIP)
        await line.wait_for_silence(ms=300)
        heard = len(line.heard)
        w.app._parts.calls._sessions[line.call_sid].hand_over("test")
        await resumed(w)
        await w.until(lambda: w.of(CallHandedOver))
        (over,) = w.of(CallHandedOver)
        assert over.call_sid == line.call_sid
        await w.until(lambda: len(w.model.sessions) == 2 and told(w.model.sessions[1]))
        said = told(w.model.sessions[1])
        assert said[:3] == [
            "assistant: Hello!",
            "user: A table for two, please.",
            "assistant: Of course. For what time, and under which name shall I write it down for you?",
        ]
        assert "Wait until the caller speaks" in said[3]
        await asyncio.sleep(1)
        assert len(line.heard) == heard  # it said nothing by itself
        await line.say(CLIP)
        await line.wait_for_silence(ms=300)
        assert told(w.model.sessions[1])[-1] == "assistant: At eight it is."
        await line.say(CLIP)
        await line.wait_ended(20)
    assert line.ended_by == "agent"
    assert line.violations == []
    assert [event.ended_by for event in w.of(CallEnded)] == ["agent"]
    details = await record(w, line)
    assert details.ended_by == "agent"
    assert [turn.text for turn in details.turns if turn.role == "agent"][-1] == "Goodbye, see you at eight!"
    assert len(details.turns) == 7
    assert "Hangup" in line.verbs


async def test_what_the_code_added_is_known_in_the_next_stream(world: Worlds, store: Store) -> None:
    async with world(AGENT, SCRIPT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        w.app.calls[line.call_sid].add("The caller's name is Ann.")
        await line.say(CLIP)
        await line.wait_for_silence(ms=300)
        for number in (1, 2):
            w.app.hand_over_now(line.call_sid, "test")
            await resumed(w, number + 1)
            await w.until(lambda n=number: len(w.model.sessions) == n + 1 and told(w.model.sessions[n]))
            said = told(w.model.sessions[number])
            # `add` may be told after words whose first sounds came before it
            assert set(said[1:3]) == {"system: The caller's name is Ann.", "user: A table for two, please."}
            assert len([each for each in said if "Ann" in each]) == 1
    details = await record(w, line)
    assert [message.text for message in details.messages] == ["The caller's name is Ann."]


async def test_a_call_that_is_handed_over_in_mid_sentence_goes_on_with_it(world: Worlds, store: Store) -> None:
    async with world(AGENT, SCRIPT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await line.say(CLIP)
        await line.wait_for_agent(ms=1500)
        w.app.hand_over_now(line.call_sid, "test")
        await resumed(w)
        before = heard_ms(line)
        await w.until(lambda: heard_ms(line) > before + 100)
        said = told(w.model.sessions[1])
        assert said[1] == "user: A table for two, please."
        assert said[2].startswith("assistant: Of course.")
        assert len(said[2]) < 70  # as far as it was heard
        assert "go on where you were cut off" in said[3]


async def test_a_stream_that_breaks_is_taken_up_again(world: Worlds, store: Store) -> None:
    async with world(AGENT, SCRIPT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await line.say(CLIP)
        await line.wait_for_agent(ms=500)
        line.drop()
        await resumed(w)
        await w.until(lambda: w.of(CallEnded))
        assert [event.ended_by for event in w.of(CallEnded)] == ["line"]
        await w.until(lambda: len(told(w.model.sessions[1])) > 3)
        assert not any("Hello" in text for text in told(w.model.sessions[1])[3:])
        details = await record(w, line)
        assert details.ended_by is None
    details = await record(w, line)
    assert details.ended_by == "caller"


async def test_the_older_stream_of_a_call_gives_way_to_a_newer_one(world: Worlds, store: Store) -> None:
    async with world(AGENT, SCRIPT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        stream = w.app._parts.calls._sessions[line.call_sid].bridge.stream_sid
        assert w.app._parts.calls.supersede(line.call_sid) == "nothing"
        await resumed(w)
        assert w.app._parts.calls._sessions[line.call_sid].bridge.stream_sid not in (None, stream)
        assert list(w.app.calls) == [line.call_sid]
        assert w.of(CallEnded) == []


# --- what was written before, and what if not ---


async def test_the_goodbye_is_followed_by_a_hang_up_that_was_written_before(world: Worlds, store: Store) -> None:
    steps: list[NextStep] = []

    async def note(call_sid: str, step: NextStep, **options: Any) -> None:
        steps.append(step)
        await Store.next_step(store, call_sid, step, **options)

    store.next_step = note  # type: ignore[method-assign]
    async with world(AGENT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        w.app.calls[line.call_sid].hang_up()
        await line.wait_ended(20)
    assert [type(step) for step in steps] == [HangUp]
    assert line.verbs[-1] == "Hangup"
    assert len(w.of(CallStarted)) == 1


async def away(*_: Any, **__: Any) -> Any:
    raise StoreError("the database is away")


async def test_without_a_database_the_call_is_hung_up_over_rest(world: Worlds, store: Store) -> None:
    done: list[str] = []

    async def complete(call_sid: str) -> None:
        done.append(call_sid)

    async with world(AGENT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        store.next_step = away  # type: ignore[method-assign]
        assert w.app._parts.journal is not None
        w.app._parts.journal._live_calls.complete = complete  # type: ignore[method-assign]
        w.app.calls[line.call_sid].hang_up()
        await w.until(lambda: done == [line.call_sid])


async def test_without_a_database_a_withheld_caller_is_forwarded_over_rest_with_a_number_that_is_called(
    world: Worlds, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "MAX_LOSSES_A_MINUTE", 0)  # no other session is sought
    done: list[str] = []

    async def redirect(call_sid: str, twiml: str) -> None:
        done.append(twiml)

    async with world(AGENT, store=store, fallback_number="+15550100009") as w, w.phone(caller=None).dial() as line:
        await line.wait_for_silence(ms=300)
        store.next_step = away  # type: ignore[method-assign]
        assert w.app._parts.journal is not None
        w.app._parts.journal._live_calls.redirect = redirect  # type: ignore[method-assign]
        w.model.sessions[0].kill()
        await w.until(lambda: done)
    assert '<Dial callerId="+15550100002">+15550100009</Dial>' in done[0], "the number that was called"


@pytest.mark.parametrize(("number", "verbs"), [(None, ["Hangup"]), ("+15550100009", ["Dial"])])
async def test_a_database_that_is_away_when_twilio_asks_means_an_apology_and_the_fallback(
    world: Worlds, store: Store, number: str | None, verbs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "KNOWN_SECONDS", 0.0)  # as another process than the call's
    async with world(AGENT, store=store, fallback_number=number) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        store.standing = away  # type: ignore[method-assign]
        line.drop()
        await line.wait_ended(20)
    assert line.verbs[-2].startswith("Say We are sorry")
    assert [verb.split()[0] for verb in line.verbs[-1:]] == verbs
    assert len(w.of(CallStarted)) == 1


async def test_a_model_that_is_lost_leads_to_the_fallback_number(
    world: Worlds, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "MAX_LOSSES_A_MINUTE", 0)  # no other session is sought
    async with world(AGENT, store=store, fallback_number="+15550100009") as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        w.model.sessions[0].kill()
        await line.wait_ended(20)
    assert line.verbs[-1].startswith("Dial")
    assert not any(verb.startswith("Say") for verb in line.verbs)  # the apology was in the stream


async def test_a_call_that_only_falls_over_is_given_up(
    world: Worlds, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FAULTS_AT_ONCE", 2)
    async with world(AGENT, store=store) as w, w.phone().dial() as line:
        for streams in (2, 3):
            line.drop()
            await resumed(w, streams)
        line.drop()
        await line.wait_ended(20)
    assert line.verbs[-2].startswith("Say We are sorry")
    assert "broke 3 times: giving up" in caplog.text


def test_how_often_a_call_may_be_resumed() -> None:
    assert journal.may_recover(4, 0)
    assert not journal.may_recover(5, 59)
    assert journal.may_recover(5, 61)
    assert journal.may_recover(30, 26 * 60)
    assert not journal.may_recover(60, 1e6)


async def test_a_hand_over_that_is_never_taken_up_is_not_planned_forever(world: Worlds, store: Store) -> None:
    step = Resume(stream_sid=STREAM_SID, pending="nothing", broke=False)
    async with world(AGENT, store=store, web_concurrency=2) as w:
        await store.next_step(CALL_SID, step)
        query, answers = "", []
        for _ in range(8):
            answers.append(await post(w, f"/twilio/after{query}", CALL_SID, CallStatus="in-progress"))
            if (again := re.search(r'action="([^"#]*)', answers[-1])) is None:
                break
            query = "?" + html.unescape(again[1]).partition("?")[2]
        assert len(answers) == 1 + journal.FAULTS_AT_ONCE + 1
        assert "We are sorry" in answers[-1]


async def test_a_call_whose_first_socket_never_came_is_greeted(world: Worlds, store: Store) -> None:
    async with world(AGENT, store=store, web_concurrency=2) as w:
        await store.next_step("CA" + "8" * 32, HangUp())  # there is a database
        path = re.search(r'url="[^"]*(/twilio/media/[^"]*)', await after(w, CALL_SID))
        assert path
        socket = await dial(w, path[1])
        await socket.send(start(CALL_SID))
        await w.until(lambda: w.model.sessions and w.model.sessions[0].said)
        assert w.model.sessions[0].said == ["Hello!"]
        assert not w.of(CallStarted)[0].resumed
        await socket.close()


async def test_of_two_sockets_at_once_the_newer_one_has_the_call(
    world: Worlds, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asyncio.Event()
    look = Store.so_far

    async def slow(self: Store, call_sid: str) -> Any:
        if not first.is_set():
            first.set()
            await asyncio.sleep(0.5)
        return await look(self, call_sid)

    async with world(AGENT, store=store, web_concurrency=2) as w:
        await store.next_step(CALL_SID, Resume())
        monkeypatch.setattr(Store, "so_far", slow)
        paths = [
            w.app._parts.verifier.media_url("/twilio/media/", CALL_SID, resumes=True)[len("wss://agent.example") :]
            for _ in "12"
        ]
        older = await dial(w, paths[0])
        await older.send(start(CALL_SID))
        await first.wait()
        newer = await dial(w, paths[1])
        await newer.send(start(CALL_SID, "MZ" + "6" * 32))
        await older.wait_closed()
        assert [event.stream_sid for event in w.of(CallStarted)] == ["MZ" + "6" * 32]
        await newer.send(stop("MZ" + "6" * 32))
        await listen(newer)


async def test_a_call_that_was_answered_is_not_rejected(world: Worlds) -> None:
    async with world(AGENT, max_calls=1, web_concurrency=2) as w:
        assert "<Connect>" in await post(w, "/twilio/voice", CALL_SID, CallStatus="ringing")
        other = "CA" + "7" * 32
        assert "<Reject" in await post(w, "/twilio/voice", other, CallStatus="ringing")  # one is on its way
        assert "<Hangup" in await post(w, "/twilio/voice", other, CallStatus="in-progress")


# --- tools ---


async def test_a_tool_is_written_down_before_it_runs_and_its_outcome_is_known_afterwards(
    world: Worlds, store: Store
) -> None:
    proceed, known = asyncio.Event(), []

    @tool
    async def book() -> str:
        """Book."""
        details = await store.call(line.call_sid)
        assert details is not None
        known.extend(details.tools)
        await proceed.wait()
        return "done"

    script = '[[turn]]\ncaller = "Book."\ncall = "book"\nthen = "It is {output}."\n'
    agent = Agent(instructions="x", tools=[book])
    async with world(agent, script, store=store) as w, w.phone().dial() as line:
        await line.say(CLIP)
        await w.until(lambda: known)
        w.app.hand_over_now(line.call_sid, "test")
        await resumed(w)
        await w.until(lambda: len(w.model.sessions) == 2 and w.model.sessions[1].items)
        outputs = [item["output"] for item in w.model.sessions[1].items if "output" in item]
        assert "outcome unknown" in outputs[0]
        proceed.set()
        await w.until(lambda: w.of(CallStarted))
        async with asyncio.timeout(HANG_SECONDS):
            while (await record(w, line)).tools[0].output is None:  # a tool outlives the stream that called it
                await asyncio.sleep(0.02)
    assert [each.output for each in known] == [None]
    assert [each.output for each in (await record(w, line)).tools] == ["done"]


async def test_what_may_happen_only_once_is_not_repeated_in_the_next_stream(world: Worlds, store: Store) -> None:
    paid: list[int] = []

    @tool(once=True)
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "receipt 7"

    turn = '[[turn]]\ncaller = "Pay."\ncall = "pay"\narguments = { amount = 5 }\nthen = "It is {output}."\n'
    agent = Agent(instructions="x", tools=[pay])
    async with world(agent, turn * 3, store=store) as w, w.phone().dial() as line:
        for _ in range(2):
            await line.say(CLIP)
            await line.wait_for_silence(ms=300)
        w.app.hand_over_now(line.call_sid, "test")
        await resumed(w)
        await w.until(lambda: len(w.model.sessions) == 2 and w.model.sessions[1].items)
        await line.say(CLIP)
        await line.wait_for_silence(ms=300)
        outputs = [item["output"] for session in w.model.sessions for item in session.items if "output" in item]
        assert outputs == ["receipt 7"] * 5  # three, and two of them are told again
        assert paid == [5]
        assert w.model.violations == []


# --- bad input ---


async def test_a_socket_for_a_call_that_is_over_is_closed(
    world: Worlds, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(AGENT, store=store) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=10)
        await w.until(lambda: w.of(CallEnded))
        url = w.app._parts.verifier.media_url("/twilio/media/", line.call_sid, resumes=True)
        socket = await dial(w, url.replace(PUBLIC_URL.replace("https", "wss"), ""))
        await socket.send(start(line.call_sid))
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert "a call that is over" in caplog.text
        assert len(w.of(CallStarted)) == 1
        assert "Hangup" in await after(w, line.call_sid)


async def test_nothing_is_done_for_a_call_that_is_not_in_progress(world: Worlds, store: Store) -> None:
    async with world(AGENT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=10)
        assert "<Response />" in await after(w, line.call_sid, status="completed")
        await w.until(lambda: w.of(CallEnded))  # Twilio knows
        assert w.of(CallEnded)[0].ended_by == "caller"


async def test_reports_of_twilio_close_only_calls_that_are_still_open(world: Worlds, store: Store) -> None:
    async with world(AGENT, store=store) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=10)
            line.drop()
            await w.until(lambda: w.of(CallEnded))
            line.hung_up = True
        for _ in range(2):
            await post(w, "/twilio/status", line.call_sid, CallStatus="completed")
            await post(w, "/twilio/status", line.call_sid, StreamEvent="stream-started")
        details = await record(w, line)
        assert details.ended_by in ("caller", "line")
        await post(w, "/twilio/status", "CA" + "9" * 32, CallStatus="completed")


async def test_a_stream_that_twilio_lost_is_reported(
    world: Worlds, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(AGENT, store=store) as w:
        await post(w, "/twilio/status", CALL_SID, StreamEvent="stream-error", StreamError="31903 broken pipe")
    assert "Twilio lost the media stream: 31903 broken pipe" in caplog.text


async def test_a_fallback_in_mid_call_goes_on_with_it(world: Worlds, store: Store) -> None:
    """The voice webhook is the number's fallback too: Twilio asks it when `/twilio/after` is not answered."""
    async with world(AGENT, store=store) as w:
        since = int(time.time()) - 60
        failed = f"{PUBLIC_URL}/twilio/after?faults=3&since={since}"
        answer = await post(w, "/twilio/voice", CALL_SID, CallStatus="in-progress", ErrorCode="11205", ErrorUrl=failed)
        assert f"faults=4&amp;since={since}" in answer
        await w.app._parts.calls.pending[CALL_SID].close()
