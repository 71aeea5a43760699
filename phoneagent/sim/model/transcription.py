"""Transcription of the caller: each committed turn goes to the ear, and its words to the record and transcript."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from phoneagent.protocol.audio import SAMPLE_RATE
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.records import CommittedTurn
from phoneagent.sim.model.setup import Setup

log = logging.getLogger(__name__)

MAX_EAR_SECONDS = 8.0
"""The maximum time for one turn; a slower ear counts as having understood nothing."""

_BILLED_BY_SECONDS = frozenset({"gpt-transcribe", "gpt-live-transcribe", "gpt-realtime-whisper", "whisper-1"})
"""Transcription models that report seconds; the others report tokens."""

_EVENT = "conversation.item.input_audio_transcription"


class Transcriber:
    """Understands the turns of one session, with its ear or the script.

    `emit` sends an event, `spawn` runs work until the session ends.
    """

    def __init__(
        self,
        setup: Setup,
        emit: Callable[..., None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._setup = setup
        self._emit = emit
        self._spawn = spawn
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, turn: CommittedTurn, item: Json, transcription: Json | None) -> None:
        """Begin to understand a turn. Its words go into `turn` and, with a `transcription`, into `item`."""
        self._tasks[turn.item_id] = self._spawn(self._understand(turn, item, transcription))

    async def finished(self, item_ids: Iterable[str]) -> None:
        """Wait until these turns have been understood. Ids of other items are ignored."""
        if tasks := [self._tasks[item_id] for item_id in item_ids if item_id in self._tasks]:
            await asyncio.wait(tasks)

    async def _understand(self, turn: CommittedTurn, item: Json, transcription: Json | None) -> None:
        if self._setup.ear is None:
            # About as long as a real one takes, so that transcripts arrive amid the answer's events.
            await asyncio.sleep(self._setup.think_ms / 2000)
        else:
            try:
                turn.text = await asyncio.wait_for(self._setup.ear.hear(turn.audio), MAX_EAR_SECONDS)
            except Exception:  # a user's own ear may raise anything
                log.exception("the ear of the simulated model failed")
        if transcription is not None:
            self._transcribe(turn, item, transcription)

    def _transcribe(self, turn: CommittedTurn, item: Json, transcription: Json) -> None:
        where = {"item_id": turn.item_id, "content_index": 0}
        if (failure := self._failure(transcription["model"])) is not None:
            self._emit(f"{_EVENT}.failed", **where, error={**failure, "param": None})
            return
        item["content"][0]["transcript"] = turn.text
        if turn.text:
            self._emit(f"{_EVENT}.delta", **where, delta=turn.text)
        usage = _usage(turn, transcription["model"])
        self._emit(f"{_EVENT}.completed", **where, transcript=turn.text, usage=usage)

    def _failure(self, model: str) -> Json | None:
        if self._setup.faults.no_transcription:
            return {"type": "server_error", "code": "transcription_failed", "message": "Input transcription failed."}
        deployed = self._setup.service.transcribes
        if deployed is None or model in deployed:
            return None
        message = f"The API deployment {model} for this resource does not exist."
        return {"type": "invalid_request_error", "code": "DeploymentNotFound", "message": message}


def _usage(turn: CommittedTurn, model: str) -> Json:
    seconds = len(turn.audio) / SAMPLE_RATE
    if model in _BILLED_BY_SECONDS:
        return {"type": "duration", "seconds": round(seconds, 2)}
    heard, written = round(seconds * 10), -(-len(turn.text) // 4)
    details = {"audio_tokens": heard, "text_tokens": 0}
    figures = {"input_tokens": heard, "output_tokens": written, "total_tokens": heard + written}
    return {"type": "tokens", **figures, "input_token_details": details}
