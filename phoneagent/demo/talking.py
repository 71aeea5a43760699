"""A call with a person: the app on loopback, a Twilio phone made of this machine's sound card, and the model."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from phoneagent import settings
from phoneagent.billing.prices import SIMULATED
from phoneagent.demo.call_events import CallEvents, Shown
from phoneagent.demo.report import Report
from phoneagent.demo.run import Senses
from phoneagent.demo.serving import KEPT_DAYS, PUBLIC_URL
from phoneagent.demo.timeline import Note, draw
from phoneagent.errors import ConfigurationError, DefinitionError
from phoneagent.model.endpoint import Endpoint
from phoneagent.server import VOICE_PATH, PhoneApp
from phoneagent.sim.hosting import serving
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.server import Model
from phoneagent.sim.sound.card import Card, CardState, open_card
from phoneagent.sim.sound.card_microphone import CardMicrophone
from phoneagent.sim.sound.card_playout import CardPlayout
from phoneagent.sim.sound.devices import Device
from phoneagent.sim.twilio.phone import CallFailed, Line, Phone
from phoneagent.sim.twilio.rest import TwilioRest

ECHO_MS = 200
"""How long the room's echo of the agent's last sound lasts. A half-duplex microphone stays muted that long, and for as
long as what it hears takes to the line."""

RECORDS = "talk.db"
"""The database of the call's record. Its name is not the app's own one, which the folder may have as well."""

MAX_TALK_SECONDS = 3660.0
"""A call that the app has not ended by then is hung up. Its own maximum is usually an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """The sound card to use. `backend` is the module `sounddevice`."""

    backend: Any
    input_device: Device
    output_device: Device
    half_duplex: bool = False

    @asynccontextmanager
    async def open(
        self, microphone: CardMicrophone, playout: CardPlayout, on_played: Callable[[], object]
    ) -> AsyncIterator[Card]:
        """Yield the open card.

        Raises:
            SoundError: it cannot be opened.
        """
        devices = {"input_device": self.input_device, "output_device": self.output_device}
        async with open_card(self.backend, microphone, playout, on_played, **devices) as card:

            def muted() -> bool:
                delay_ms = card.state.input_ms + microphone.buffer.average_ms
                return playout.audible(time.monotonic(), ECHO_MS + delay_ms)

            if self.half_duplex:
                microphone.muted = muted
            yield card


@dataclass(frozen=True, slots=True)
class Talked:
    """A call that is over. `trouble` is a line that says what went wrong, if anything did. `saved` names the files."""

    report: Report
    sound: dict[str, Any]
    trouble: str | None = None
    saved: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        return self.trouble is None and self.report.passed

    def json(self) -> str:
        """Return the report as JSON, with the measurements of the sound card under `sound`."""
        return json.dumps({**asdict(self.report), "sound": self.sound}, indent=2, ensure_ascii=False) + "\n"


@asynccontextmanager
async def simulated_model(script: Script, senses: Senses) -> AsyncIterator[tuple[Model, Endpoint]]:
    """Run the simulated model while the context lasts; yield it and its endpoint.

    Without an ear it transcribes nothing: the caller's words in its script are not those of the person who speaks.
    """
    await senses.warm_up()
    recognizers = settings.DEFAULT_TRANSCRIPTION_MODELS if senses.ear is not None else ()
    async with Model(script, voice=senses.agent, ear=senses.ear, vad=senses.vad, brain=senses.brain) as model:
        yield model, Endpoint(f"{model.url}?model={SIMULATED}", transcription_models=recognizers)


async def talk(
    app: PhoneApp,
    sound: Sound,
    *,
    model: AbstractAsyncContextManager[tuple[Model, Endpoint]] | None,
    caller: str,
    save: Path | None,
    stop: asyncio.Event,
    keys: Callable[[Callable[[str], object]], AbstractContextManager[bool]],
    console: Console,
) -> Talked:
    """Call the app from this machine's sound card, until it hangs up or `stop` is set.

    `model` takes the place of the app's own model. `keys` reads the telephone keys that are typed.

    Raises:
        SoundError: the sound card cannot be opened.
        ConfigurationError: the app's settings are malformed.
    """
    seen = CallEvents(console)
    app.on(Shown)(seen.see)
    microphone, playout = CardMicrophone(), CardPlayout(0.0)
    call, simulated = _Call(console, stop, keys), None
    async with AsyncExitStack() as stack:
        if model is not None:
            simulated, endpoint = await stack.enter_async_context(model)
            app.endpoints = [endpoint]
        folder = save or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        account_sid, auth_token = "AC" + secrets.token_hex(16), secrets.token_hex(16)
        rest = await stack.enter_async_context(TwilioRest(account_sid=account_sid, auth_token=auth_token))
        _configure(app, account_sid, auth_token, rest.url, folder)
        card = await stack.enter_async_context(sound.open(microphone, playout, call.sound_played))
        url = await stack.enter_async_context(_serving(app))
        phone = Phone(
            url + VOICE_PATH,
            auth_token=auth_token,
            account_sid=account_sid,
            public_url=PUBLIC_URL,
            caller=caller,
            rest=rest,
        )
        await call.run(phone, microphone, playout, card)
    if call.line is None:
        return Talked(Report("", "error", 0), {}, call.trouble)
    report = seen.report(call.line)
    violations = [f"phone: {each}" for each in report.violations]
    violations += [f"model: {each}" for each in (simulated.violations if simulated is not None else [])]
    sound_facts = _measured(card.state, microphone, playout)
    talked = Talked(replace(report, violations=violations), sound_facts, call.trouble or seen.failure)
    return talked if save is None else _write(talked, call.line, seen, save)


class _Call:
    """The call itself. `line` is None until its stream is up; `trouble` is why it went wrong."""

    def __init__(
        self,
        console: Console,
        stop: asyncio.Event,
        keys: Callable[[Callable[[str], object]], AbstractContextManager[bool]],
    ) -> None:
        self.line: Line | None = None
        self.trouble: str | None = None
        self._console, self._stop, self._keys = console, stop, keys
        self._pressing: set[asyncio.Task[None]] = set()

    def sound_played(self) -> None:
        """Tell the line that the card has played a block."""
        if self.line is not None:
            self.line.sound_played()

    async def run(self, phone: Phone, microphone: CardMicrophone, playout: CardPlayout, card: Card) -> None:
        """Dial, and stay until either side ends the call, or the sound card is lost."""
        try:
            async with phone.dial(microphone=microphone, playout=playout) as line:
                self.line = line
                with self._keys(self._press) as typed:
                    words = "Ctrl-C hangs up; keys 0-9, * and # are sent." if typed else "Ctrl-C hangs up."
                    self._console.print(f"[dim]The call is up: speak. {words}[/]")
                    await self._stay(line, card)
        except CallFailed as failure:
            self.trouble = str(failure)

    async def _stay(self, line: Line, card: Card) -> None:
        waiting = [
            asyncio.ensure_future(each)
            for each in (line.wait_ended(MAX_TALK_SECONDS), self._stop.wait(), asyncio.shield(card.lost))
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, *self._pressing, return_exceptions=True)
        if card.lost.done():
            self.trouble = card.lost.result()

    def _press(self, key: str) -> None:
        if self.line is not None:
            task = asyncio.create_task(self._send(self.line, key))
            self._pressing.add(task)
            task.add_done_callback(self._pressing.discard)

    async def _send(self, line: Line, key: str) -> None:
        try:
            await line.press(key)
        except CallFailed:
            self._console.print(f"[dim]The key {key} came after the end of the call.[/]")


@asynccontextmanager
async def _serving(app: PhoneApp) -> AsyncIterator[str]:
    """Serve the app while the context lasts, and yield its address."""
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(serving(app))
        except RuntimeError as error:
            raise DefinitionError(f"the call cannot begin: {error}") from None
        yield url


def _configure(app: PhoneApp, account_sid: str, auth_token: str, api_url: str, folder: Path) -> None:
    """Give the app a made-up account, and keep the call in `folder`: its own database, the place of its recordings and
    its webhook get nothing of it. The other settings are its own."""
    changed = {
        "twilio_account_sid": account_sid,
        "twilio_auth_token": SecretStr(auth_token),
        "twilio_api_url": api_url,
        "public_url": PUBLIC_URL,
        "database_url": SecretStr(f"sqlite:///{folder.absolute()}/{RECORDS}"),
        "record_days": KEPT_DAYS,
        "webhook_url": None,
        "endpoint_in_code": bool(app.endpoints),
    }
    try:
        own = app.settings
    except ConfigurationError:  # what only a real account needs may be missing
        own = settings.load(changed)
    if own.record_audio is not None:
        changed |= {"record_audio": SecretStr(f"{folder.absolute()}/recordings"), "record_audio_days": KEPT_DAYS}
    app.settings = own.model_copy(update=changed)


def _measured(state: CardState, microphone: CardMicrophone, playout: CardPlayout) -> dict[str, Any]:
    """Return what was measured of the sound card, for the report; times in milliseconds."""
    facts = asdict(state) | {"input_ms": round(state.input_ms, 1), "output_ms": round(state.output_ms, 1)}
    return {
        **facts,
        "buffer_ms": round(microphone.buffer.average_ms, 1),
        "dropped_ms": round(microphone.buffer.dropped_ms, 1),
        "gaps": microphone.buffer.gaps,
        "underruns": playout.underruns,
    }


def _write(talked: Talked, line: Line, seen: CallEvents, folder: Path) -> Talked:
    """Write the call's files into the folder; what cannot be written is trouble, and costs no other file."""
    notes = [Note(at_ms, words) for at_ms, words in seen.notes()]
    picture = draw(talked.report, caller=line.caller_audio(), agent=line.heard_audio(), tools=notes)
    files = {
        "call.wav": line.recording(),
        "timeline.svg": picture.encode(),
        "transcript.txt": talked.report.transcript().encode(errors="replace"),
        "report.json": talked.json().encode(errors="replace"),
    }
    saved, trouble = [], [] if talked.trouble is None else [talked.trouble]
    for name, content in files.items():
        try:
            (folder / name).write_bytes(content)
            saved.append(name)
        except OSError as problem:
            trouble.append(f"{folder / name} cannot be written ({problem.strerror or problem}): choose another folder")
    return replace(talked, trouble="; ".join(trouble) or None, saved=saved)
