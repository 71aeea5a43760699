"""The state of a simulated session, shared by its parts: configuration, conversation, and the way to the client."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Literal

import msgspec

from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.config import Json, default_session, default_transcription_session
from phoneagent.sim.model.conversation import Conversation
from phoneagent.sim.model.dialect import event_to_beta
from phoneagent.sim.model.records import SessionRecord
from phoneagent.sim.model.replies import Replies
from phoneagent.sim.model.setup import Setup
from phoneagent.sim.model.transcription import Transcriber
from phoneagent.sim.model.wire import Wire

SessionWatch = Callable[[Literal["in", "out"], Json], None]


class SessionState(SessionRecord):
    """The state that the caller's audio, the responses and the MCP servers of one session work on.

    `session` is the effective configuration in the modern shape. `watch` sees all events but audio.
    """

    def __init__(
        self,
        setup: Setup,
        wire: Wire,
        *,
        model: str,
        dialect: Literal["ga", "beta"],
        transcribes: bool = False,
        watch: SessionWatch | None,
    ) -> None:
        super().__init__()
        self.setup = setup
        self.model = model
        self.dialect = dialect
        session_id, expires_at = self.new_id("sess"), int(time.time() + setup.session_seconds)
        self.session = (
            default_transcription_session(session_id, expires_at)
            if transcribes
            else default_session(model, session_id, expires_at)
        )
        self.conversation_id = self.new_id("conv")
        self.conversation = Conversation(self.emit)
        self.replies = Replies(setup.script, hears=setup.ear is not None)
        self.transcriber = Transcriber(setup, self.emit, self.spawn)
        self.tokens_read = 0
        """Input tokens of the last response, which the next one reads from the cache."""
        self._wire = wire
        self._watch = watch
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def only_transcribes(self) -> bool:
        """Whether this session never answers."""
        return bool(self.session["type"] == "transcription")

    def new_id(self, kind: str) -> str:
        """Return a new identifier like `item_3f…`."""
        return f"{kind}_{secrets.token_hex(10)}"

    def emit(self, kind: str, **fields: Any) -> None:
        """Send an event in the client's spelling, and show it to the watcher."""
        event: Json = {"type": kind, "event_id": self.new_id("event"), **fields}
        if kind != "response.output_audio.delta":
            self.show("out", event)
        spelled = event_to_beta(event) if self.dialect == "beta" else event
        if spelled is not None:
            spelled = self.setup.stand_in.spell(spelled, self.new_id)
        if spelled is not None:
            # Encoded at once: items keep changing after they were announced.
            self._wire.put(msgspec.json.encode(spelled))
        self.setup.changed()

    def show(self, direction: Literal["in", "out"], event: Json) -> None:
        """Show an event to the watcher, if there is one."""
        if self._watch is not None:
            self._watch(direction, event)

    def send_error(self, refused: EventRefused, event_id: str | None) -> None:
        """Send the `error` event of a refusal; `event_id` is that of the client's event."""
        error = {"type": "invalid_request_error", "code": refused.code, "message": str(refused)}
        self.emit("error", error=error | {"param": refused.param, "event_id": event_id})

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the session does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._discard)
        return task

    def _discard(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            with suppress(asyncio.CancelledError):
                task.result()  # else the task keeps the traceback, and with it the event loop's frames and old timers

    async def stop_tasks(self) -> None:
        """Cancel everything that `spawn` started, and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def understood(self, item_ids: Iterable[str]) -> dict[str, str]:
        """Wait until these turns have been understood; return the words of all turns, by item."""
        await self.transcriber.finished(item_ids)
        return {turn.item_id: turn.text for turn in self.caller_turns}
