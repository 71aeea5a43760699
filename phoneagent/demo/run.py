"""The demonstration: the real app, a simulated Realtime server and a simulated Twilio phone, all on loopback."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from phoneagent.demo.live import Live
from phoneagent.demo.report import Report, measure, voice_bounds
from phoneagent.demo.serving import Server, serve
from phoneagent.demo.stories import AGENT_CLIPS, CALLER_CLIPS, Story
from phoneagent.demo.timeline import Note, draw
from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.model.server import Model, SimulatedSession
from phoneagent.sim.model.vad import EnergyGate, Vad
from phoneagent.sim.recogniser import MoonshineEar
from phoneagent.sim.speech import ClipVoice, Ear, Murmur, Voice, agent_voice, caller_voice, default_ear
from phoneagent.sim.twilio.phone import CallFailed, Line, Phone

ANSWER_SECONDS = 25.0
"""How long the caller waits for the agent to have spoken before speaking all the same."""

POLITE_MS = 900
"""How long the agent has been silent when the caller speaks."""

PATIENT_MS = 3000
"""How long it has been silent after the caller's last line when the caller hangs up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """What speaks and hears in the simulated world. `ear` None: hearing is scripted; `vad` None: the best installed."""

    agent: Voice
    caller: Voice
    ear: Ear | None
    vad: Callable[[], Vad] | None

    @classmethod
    def best(cls) -> Senses:
        """Everything that is installed."""
        return cls(agent=agent_voice(AGENT_CLIPS), caller=caller_voice(CALLER_CLIPS), ear=default_ear(), vad=None)

    @classmethod
    def scripted(cls) -> Senses:
        """What a base installation has: clips, a murmur for other words, a level for voice activity; no ear."""
        return cls(
            agent=ClipVoice(AGENT_CLIPS, Murmur(pitch_hz=200)),
            caller=ClipVoice(CALLER_CLIPS, Murmur(pitch_hz=120)),
            ear=None,
            vad=EnergyGate,
        )

    async def warm_up(self) -> None:
        """Load what is loaded by the first use, so that nobody in the call waits for it."""
        await asyncio.to_thread(self.agent.render, "One, two.")
        if isinstance(self.ear, MoonshineEar):
            await self.ear.warm_up()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a demonstration. `trouble` says in a line why the call did not go as it should, if it did not."""

    report: Report
    trouble: str | None = None

    @property
    def passed(self) -> bool:
        return self.trouble is None and self.report.passed


async def demonstrate(target: str, story: Story, senses: Senses, out: Path, console: Console) -> Outcome:
    """Play `story` with the app `target`, write the call's files into the folder `out`, and tell `console` about it.

    Raises:
        ServerFailed: the app did not come up.
    """
    await senses.warm_up()
    key = secrets.token_hex(16)
    voice, ear, vad = senses.agent, senses.ear, senses.vad
    async with (
        Model(story.script(), voice=voice, ear=ear, vad=vad, api_key=key) as model,
        serve(target, model_url=model.url, model_key=key, log=out / "server.log") as server,
    ):
        line, trouble = await _call(server, story, senses.caller, model, console)
        # The app closes its model session after the call; what it sends until then counts.
        with suppress(TimeoutError):
            await model.wait_for(lambda: all(session.closed for session in model.sessions), timeout=5)
    if line is None:
        violations = [f"model: {violation}" for violation in model.violations]
        return Outcome(Report("", "error", 0, violations=violations), trouble)
    session = max(model.sessions, key=lambda session: len(session.append_log), default=None)
    report = measure(line, session)
    violations = [f"phone: {violation}" for violation in line.violations]
    violations += [f"model: {violation}" for violation in model.violations]
    report = replace(report, violations=violations)
    _write(report, line, session, out)
    return Outcome(report, trouble)


async def _call(
    server: Server, story: Story, voice: Voice, model: Model, console: Console
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
            live = Live(console, line, model)
            looking = asyncio.create_task(live.run())
            try:
                trouble = await _converse(line, story, voice, live)
            finally:
                looking.cancel()
                await asyncio.wait({looking})
            live.look()
    except CallFailed as failure:
        return line, str(failure)
    return line, trouble


async def _converse(line: Line, story: Story, voice: Voice, live: Live) -> str | None:
    """Say the caller's lines, the second into the agent's words, and wait for the end."""
    texts = [turn.caller for turn in story.script().turns]
    clips = [await asyncio.to_thread(voice.render, text) for text in texts]
    for number, (text, clip) in enumerate(zip(texts, clips, strict=True)):
        try:
            if number == 1:
                await line.wait_for_agent(ms=story.interrupts_after_ms, timeout=ANSWER_SECONDS)
            else:
                await line.wait_for_silence(ms=POLITE_MS, timeout=ANSWER_SECONDS)
        except TimeoutError:
            if not line.heard:
                return f"the agent was not heard within {ANSWER_SECONDS:g} s"
        except CallFailed:
            return f"the call ended (by {line.ended_by}) before the caller said {text!r}"
        live.caller_says(text)
        await line.say(clip, text)
        live.caller_ends((len(clip) / BYTES_PER_MS) - voice_bounds(clip)[1])
    with suppress(CallFailed, TimeoutError):
        await line.wait_for_silence(ms=PATIENT_MS, timeout=ANSWER_SECONDS)
    return None


def _write(report: Report, line: Line, session: SimulatedSession | None, out: Path) -> None:
    tools = [
        Note((record.called_at - line.started_at) * 1000, call.words())
        for record, call in zip(session.tool_calls if session else (), report.tool_calls, strict=True)
    ]
    picture = draw(report, caller=line.caller_audio(), agent=line.heard_audio(), tools=tools)
    (out / "call.wav").write_bytes(line.recording())
    (out / "timeline.svg").write_text(picture, encoding="utf-8")
    (out / "transcript.txt").write_text(report.transcript(), encoding="utf-8")
