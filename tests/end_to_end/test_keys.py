"""Keys on the telephone: what the agent learns of them, and that nothing learns the digits that are gathered."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from phoneagent import (
    Agent,
    Call,
    CallEnded,
    Clip,
    Endpoint,
    KeyPressed,
    MessageAdded,
    ModelEvent,
    PhoneApp,
    ToolError,
    ToolReturned,
    TurnEnded,
    keypad,
    tool,
)
from phoneagent.bridge.keys import Keys
from phoneagent.cli.serve import MEDIA_SOCKETS, UVICORN
from phoneagent.protocol.tones import tones
from phoneagent.sim import Line, Model, Phone, Script, serving
from phoneagent.sim.model.session import SimulatedSession
from phoneagent.sim.speech import Murmur
from phoneagent.sim.tones import ToneEar
from phoneagent.store import Store
from phoneagent.telemetry import JsonFormatter
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, EVENTS, PUBLIC_URL, Worlds, settings
from tests.patience import HANG_SECONDS
from tests.protocol.test_wav import riff

pytestmark = pytest.mark.anyio
VOICE = Murmur()
PIN = "1907345826"  # so long that no time or id has it by chance
SCRIPT = """
greeting = "Hello!"
[[turn]]
caller = "My balance, please."
say = "Type your PIN now."
call = "check_pin"
then = "{output}"
"""


def spelled(text: str) -> bool:
    """Tell whether the PIN is in a text, also with something between its digits."""
    return any(joint.join(PIN) in text for joint in ("", " ", ",", ", ", '","', "-"))


async def types(line: Line, digits: str) -> None:
    """Type as a telephone does of which the tones are heard in the audio as well."""
    await asyncio.gather(line.press(digits), line.say(tones(digits)))


@pytest.mark.parametrize("socket", sorted(MEDIA_SOCKETS))  # in one the function fails, in the other one it answers
async def test_gathered_digits_are_nowhere_in_clear(
    socket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_model: list[str] = []
    receive = SimulatedSession.receive

    def listening(session: SimulatedSession, message: str | bytes) -> None:
        to_model.append(message if isinstance(message, str) else message.decode())
        receive(session, message)

    monkeypatch.setattr(SimulatedSession, "receive", listening)
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    got, told = list[str](), list[Any]()

    @keypad(digits=10)
    async def check_pin(digits: str, call: Call) -> str:
        """Check the caller's PIN."""
        got.append(digits)
        if socket == "direct":
            raise LookupError(f"no account with the PIN {digits}")
        return f"With {digits}, you have 12 euros."

    async with Model(Script.parse(SCRIPT)) as model:
        store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
        app = PhoneApp(
            Agent(instructions="x", greeting="Hello!", tools=[check_pin]),
            settings=settings(),
            endpoint=Endpoint(f"{model.url}?model=m", transcription_models=("gpt-transcribe",)),
            store=store,
        )

        @app.on(EVENTS | ModelEvent)
        async def note(event: Any) -> None:
            told.append(event)

        async with serving(app, **UVICORN | {"ws": MEDIA_SOCKETS[socket]}) as url:
            phone = Phone(f"{url}/twilio/voice", auth_token=AUTH_TOKEN, public_url=PUBLIC_URL, account_sid=ACCOUNT_SID)
            async with phone.dial() as line:
                await line.wait_for_silence(ms=100)
                await line.say(VOICE.render("My balance, please."))
                await until(lambda: keys_of(app).gathering)
                before = len(to_model)
                typing = asyncio.create_task(types(line, PIN))
                await until(lambda: got)
                await line.press("#")  # nothing has asked for it
                await typing
                assert {*audio(to_model[before:])} <= {0xFF}
                await until(lambda: not keys_of(app).busy)
                await line.wait_for_silence(ms=100)
                assert ToneEar().hear(line.caller_audio()) == PIN
            await until(lambda: any(isinstance(each, CallEnded) for each in told))
            metrics = app._parts.metrics.text().decode()
    assert got == [PIN]
    (output,) = (each.output for each in told if isinstance(each, ToolReturned))
    assert output in ('{"error":"check_pin failed"}', "With ••••••••••, you have 12 euros.")
    assert [each.digit for each in told if isinstance(each, KeyPressed)] == [""] * 11
    assert not any(isinstance(each, MessageAdded) for each in told)
    assert ToneEar().hear(audio(to_model)) == ""
    files = sorted(tmp_path.glob("calls.db*"))  # noqa: ASYNC240 - the call is over
    places = {
        "model": "".join(each for each in to_model if '"input_audio_buffer.append"' not in each),
        "events": "".join(f"{each!r}{vars_of(each)}" for each in told),
        "log": caplog.text + "".join(JsonFormatter().format(record) for record in caplog.records),
        "metrics": metrics,
        "database": "".join(path.read_bytes().decode("latin-1") for path in files),
    }
    assert all(places.values())
    assert [name for name, text in places.items() if spelled(text)] == []
    assert keys_in(places["log"]) == ""


async def test_keys_are_a_turn_and_stop_the_agent(world: Worlds) -> None:
    script = """
[[turn]]
caller = "Hello?"
say = "That is a long answer, which goes on and on until the caller has had enough of it and presses a key."
[[turn]]
heard = "5"
say = "Five it is."
"""
    async with world(Agent(instructions="x", greeting="Hello!"), script) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=100)
        await line.say(VOICE.render("Hello?"))
        await line.wait_for_agent(ms=300)
        await line.press("5#")
        await line.wait_for_clear()
        turn = await w.until(lambda: [each for each in w.of(TurnEnded) if each.turn.text == "Five it is."])
        assert not turn[0].turn.interrupted
        assert [each.text for each in w.of(MessageAdded)] == ["The caller pressed keys on their telephone: 5#"]
        assert w.model.violations == []


async def test_a_gather_ends_with_its_call_and_holds_one_at_a_time(world: Worlds) -> None:
    ends: list[str] = []

    @tool(timeout=60)
    async def ask(call: Call) -> str:
        """Ask."""
        first = asyncio.create_task(call.gather(4, timeout=30))
        await asyncio.sleep(0)
        for each in (call.gather(2), first, call.gather(1)):
            try:
                await each
            except ToolError as error:
                ends.append(str(error))
        return "done"

    script = '[[turn]]\ncaller = "Ask."\ncall = "ask"\nthen = "Yes."'
    async with world(Agent(instructions="x", tools=[ask]), script) as w:
        async with w.phone().dial() as line:
            await line.say(VOICE.render("Ask."))
            await w.until(lambda: ends)
            await line.press("12")
        await w.until(lambda: w.of(CallEnded) and len(ends) == 3)
    assert [each.partition(":")[0] for each in ends] == [
        "digits are being gathered already",
        "the call ended, or moved to another media stream, before the digits were typed",
        "no digits can be gathered",
    ]


async def test_a_disclosure_and_a_number_are_heard_whole_whatever_the_caller_says(world: Worlds) -> None:
    words = VOICE.render("This call is recorded.")
    legal = Clip(riff(7, 1, 8000, 8, words), text="This call is recorded.")
    script = 'default = "I see."'
    async with world(Agent(instructions="x"), script) as w, w.phone().dial() as line:
        call = await w.until(lambda: w.app.calls.get(line.call_sid))
        call.play(legal, interruptible=False)
        await line.wait_for_agent(ms=200)
        await line.say(VOICE.render("What?"))
        call.send_digits("12ww3#")
        await line.say(VOICE.render("Hello?"))
        call.interrupt()
        turns = await w.until(lambda: [each.turn for each in w.of(TurnEnded) if each.turn.text == "[keys pressed: 4]"])
        assert not turns[0].interrupted
        assert line.clears == []
        assert words in bytes(line.received)
        assert ToneEar().hear(line.heard_audio()) == "123#"
        (said,) = (each.turn for each in w.of(TurnEnded) if each.turn.text == legal.text)
        assert (said.heard_ms, said.interrupted) == (len(words) // 8, False)
        assert line.violations == w.model.violations == []


def keys_of(app: PhoneApp) -> Keys:
    (session,) = app._parts.calls._sessions.values()
    return session.bridge.keys


def vars_of(event: Any) -> str:
    return "".join(repr(getattr(event, name)) for name in event.__slots__)


def keys_in(log: str) -> str:
    """The keys of Twilio's messages, should a library have logged those."""
    return "".join(part[:1] for part in log.replace("\\", "").replace(" ", "").split('"digit":"')[1:])


def audio(messages: list[str]) -> bytes:
    """Everything that the model heard."""
    found = [json.loads(each) for each in messages if '"input_audio_buffer.append"' in each]
    return b"".join(base64.b64decode(each["audio"]) for each in found)


async def until(condition: Any) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
