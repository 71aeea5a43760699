"""The demonstration: the real app, a simulated Realtime server and a simulated Twilio phone, all on loopback."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from phoneagent.demo.live import Live
from phoneagent.demo.report import Report, measure, voice_bounds
from phoneagent.demo.serving import KEPT_DAYS, Server, cause_in, raised_in, serve
from phoneagent.demo.stories import AGENT_CLIPS, CALLER_CLIPS, Story
from phoneagent.demo.timeline import Note, draw
from phoneagent.errors import StoreError
from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.server import Model, SimulatedSession
from phoneagent.sim.model.vad import EnergyGate, Vad
from phoneagent.sim.recogniser import MoonshineEar
from phoneagent.sim.speech import ClipVoice, Ear, Murmur, Voice, agent_voice, caller_voice, default_ear
from phoneagent.sim.twilio.phone import CallFailed, Line, Phone
from phoneagent.store import CallDetails, Store
from phoneagent.store.afterwards import OPEN

ANSWER_SECONDS = 25.0
"""How long the caller waits for the agent before speaking anyway."""

POLITE_MS = 900
"""How long the agent must be silent before the caller speaks."""

PATIENT_MS = 3000
"""How long the agent must be silent after the caller's last line before the caller hangs up."""


FILL_IN_SECONDS = 15.0
"""How long the app may take to fill in the outcome of the call. It waits for the end of the record first."""

LOOK_SECONDS = 0.1
"""How often the record is checked during that time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """What speaks, hears and thinks in the simulated world.

    No `ear`: hearing is scripted. No `vad`: the best one installed. No `brain`: the model follows the story's script.
    """

    agent: Voice
    caller: Voice
    ear: Ear | None
    vad: Callable[[], Vad] | None
    brain: Brain | None = None

    @classmethod
    def best(cls) -> Senses:
        """Return the best senses that are installed."""
        return cls(agent=agent_voice(AGENT_CLIPS), caller=caller_voice(CALLER_CLIPS), ear=default_ear(), vad=None)

    @classmethod
    def scripted(cls) -> Senses:
        """Return what a base installation has: clips, a murmur for other words, an energy gate as VAD, and no ear."""
        return cls(
            agent=ClipVoice(AGENT_CLIPS, Murmur(pitch_hz=200)),
            caller=ClipVoice(CALLER_CLIPS, Murmur(pitch_hz=120)),
            ear=None,
            vad=EnergyGate,
        )

    @property
    def murmurs(self) -> bool:
        """Whether the agent has no voice for words without a clip."""
        return self.murmured("Words of no clip: the agent's own.")

    def murmured(self, text: str) -> bool:
        """Return whether a line, of the agent or of the caller, is murmured and not spoken."""
        return all(isinstance(voice, ClipVoice) and voice.murmurs(text) for voice in (self.agent, self.caller))

    async def warm_up(self) -> None:
        """Load the models now instead of at their first use, so that the call does not wait for them."""
        await asyncio.to_thread(self.agent.render, "One, two.")
        if isinstance(self.ear, MoonshineEar):
            await self.ear.warm_up()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a demonstration. `trouble` is a line that says what went wrong in the call, if anything did.

    `raised` has a line for each tool, hook and guardrail that raised. A tool's arguments were made up, so that is no
    fault of the call. `record` is the app's own record of the call, if it keeps one.
    """

    report: Report
    trouble: str | None = None
    raised: Sequence[str] = ()
    record: CallDetails | None = None

    @property
    def passed(self) -> bool:
        return self.trouble is None and self.report.passed


async def demonstrate(target: str, story: Story, senses: Senses, out: Path, console: Console) -> Outcome:
    """Play `story` with the app `target`, write the call's files into the folder `out`, and print it to `console`.

    Raises:
        ServerFailed: the app did not start.
    """
    await senses.warm_up()
    key = secrets.token_hex(16)
    voice, ear, vad, brain = senses.agent, senses.ear, senses.vad, senses.brain
    log = out / "server.log"
    async with (
        Model(story.script(), voice=voice, ear=ear, vad=vad, brain=brain, api_key=key) as model,
        serve(target, model_url=model.url, model_key=key, log=log) as server,
    ):
        console.print(f"[dim]In a browser, while it lasts: {server.console_url}[/]")
        line, trouble = await _call(server, story, senses, model, console)
        # The app closes its model session after the call, and a rule that it breaks before then counts.
        with suppress(TimeoutError):
            await model.wait_for(lambda: all(session.closed for session in model.sessions), timeout=5)
        record = None if line is None else await _recorded(server, line.call_sid)
    if cause := cause_in(log):
        trouble = cause if trouble is None else f"{trouble}: {cause}"
    if line is None:
        violations = [f"model: {violation}" for violation in model.violations]
        return Outcome(Report("", "error", 0, violations=violations), trouble)
    session = max(model.sessions, key=lambda session: len(session.append_log), default=None)
    told = record.turns if record is not None else ()
    report = measure(
        line,
        session,
        pauses=[pause for turn in told for pause in turn.pauses],
        dead_air_ms=record.dead_air_ms if record is not None else None,
    )
    violations = [f"phone: {violation}" for violation in line.violations]
    violations += [f"model: {violation}" for violation in model.violations]
    report = replace(report, violations=violations)
    _write(report, line, session, out)
    return Outcome(report, trouble, raised_in(log), record)


async def _recorded(server: Server, call_sid: str) -> CallDetails | None:
    """Return the app's record of a call that is over, once its outcome is filled in, if its agent has one.

    It is None if the app kept no record: it has another database, or keeps none.
    """
    if server.records is None or not server.records.exists():
        return None
    record = None
    with suppress(StoreError, TimeoutError):
        database = Store.from_url(f"sqlite:///{server.records}", record_days=KEPT_DAYS)
        async with asyncio.timeout(FILL_IN_SECONDS), database as store:
            while True:
                record = await store.call(call_sid)
                afterwards = await store.afterwards.get(call_sid)
                over = record is not None and record.ended_at is not None
                if over and (afterwards is None or afterwards.state not in OPEN):
                    break
                await asyncio.sleep(LOOK_SECONDS)
    return record


async def _call(
    server: Server, story: Story, senses: Senses, model: Model, console: Console
) -> tuple[Line | None, str | None]:
    """Call the app and hold the conversation; return the line and what went wrong, if anything did."""
    phone = Phone(
        server.webhook_url,
        auth_token=server.auth_token,
        account_sid=server.account_sid,
        public_url=server.public_url,
    )
    line: Line | None = None
    try:
        async with phone.dial() as line:
            live = Live(console, line, model, murmured=senses.murmured)
            watching = asyncio.create_task(live.run())
            try:
                trouble = await _converse(line, story, senses.caller, live)
            finally:
                watching.cancel()
                await asyncio.wait({watching})
            live.look()
    except CallFailed as failure:
        return line, str(failure)
    return line, trouble


async def _converse(line: Line, story: Story, voice: Voice, live: Live) -> str | None:
    """Say the caller's lines, interrupt the agent with the second one, and wait for the end."""
    turns = [turn for turn in story.script().turns if turn.caller]
    clips = [await asyncio.to_thread(voice.render, turn.caller) for turn in turns]
    for number, (turn, clip) in enumerate(zip(turns, clips, strict=True)):
        text = turn.caller
        try:
            if number == 1 and story.interrupts_after_ms is not None:
                await _moment_to_interrupt(line, story.interrupts_after_ms)
            else:
                await line.wait_for_silence(ms=POLITE_MS, timeout=ANSWER_SECONDS)
        except TimeoutError:
            if not line.heard:
                return f"the agent was not heard within {ANSWER_SECONDS:g} s"
        except CallFailed:
            if story.free and line.heard and line.ended_by == "agent":
                return None
            return f"the call ended (by {line.ended_by}) before the caller said {text!r}"
        live.caller_says(text)
        await line.say(clip, text)
        live.caller_ends((len(clip) / BYTES_PER_MS) - voice_bounds(clip)[1])
        with suppress(CallFailed, TimeoutError):  # the next line, or the end, will report it
            await _type(line, turn.keys, live)
    with suppress(CallFailed, TimeoutError):
        await line.wait_for_silence(ms=PATIENT_MS, timeout=ANSWER_SECONDS)
    return None


async def _type(line: Line, keys: str, live: Live) -> None:
    """Press keys once the agent has asked for them, and wait until it responds."""
    if keys:
        await line.wait_for_silence(ms=POLITE_MS, timeout=ANSWER_SECONDS)
        line_ended_ms = line.speech[-1].end_ms
        asked_ms = sum(max(span.end_ms - max(span.start_ms, line_ended_ms), 0) for span in line.heard)
        live.caller_types(len(keys))
        await line.press(keys)
        await line.wait_for_agent(ms=asked_ms + 1, timeout=ANSWER_SECONDS)


async def _moment_to_interrupt(line: Line, after_ms: int) -> None:
    """Wait until the agent's answer was heard for `after_ms`, or until it is over: a brain's may be shorter."""
    waits = (
        line.wait_for_agent(ms=after_ms, timeout=ANSWER_SECONDS),
        line.wait_for_silence(ms=POLITE_MS, timeout=ANSWER_SECONDS),
    )
    tasks = [asyncio.create_task(each) for each in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _write(report: Report, line: Line, session: SimulatedSession | None, out: Path) -> None:
    tools = [
        Note((record.called_at - line.started_at) * 1000, call.words())
        for record, call in zip(session.tool_calls if session else (), report.tool_calls, strict=True)
    ]
    picture = draw(report, caller=line.caller_audio(), agent=line.heard_audio(), tools=tools)
    (out / "call.wav").write_bytes(line.recording())
    (out / "timeline.svg").write_text(picture, encoding="utf-8")
    (out / "transcript.txt").write_text(report.transcript(), encoding="utf-8")
