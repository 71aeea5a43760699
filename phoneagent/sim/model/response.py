"""One response of the simulated Realtime server, from `response.created` to `response.done`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Literal, assert_never

from phoneagent.protocol.audio import silence
from phoneagent.sim.model.audio import bytes_per_ms, from_ulaw
from phoneagent.sim.model.brain import Brain, BrainFailed, CutShort
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.improvising import improvise
from phoneagent.sim.model.mcp import HostedCall, McpServers
from phoneagent.sim.model.output import OutputMessage
from phoneagent.sim.model.records import AudioItem, ResponseRecord, ToolCallRecord, words_within
from phoneagent.sim.model.replies import PlannedCall, Question, Reply
from phoneagent.sim.model.state import SessionState
from phoneagent.sim.model.usage import CHARACTERS_A_TOKEN, MODEL_TOKEN_MS, input_tokens, usage
from phoneagent.sim.speech import PAUSE_MS

log = logging.getLogger(__name__)

_LIMITED = {
    "type": "tokens",
    "code": "rate_limit_exceeded",
    "message": "Rate limit reached for the model on tokens per min (TPM).",
}
_SERVER_ERROR = {
    "type": "server_error",
    "code": "server_error",
    "message": "The server had an error while processing your request.",
}
CLOSING_SECONDS = 0.02
"""From the end of a response's last item to the end of the response."""


class Response:
    """A response that is being generated.

    `params` is the checked `response` of a `response.create`. `ended(response, remaining_ms)` is called at its end;
    `remaining_ms` is how long its audio will still play.
    """

    def __init__(
        self,
        session: SessionState,
        mcp: McpServers,
        params: Json,
        by: Literal["vad", "client", "server"],
        ended: Callable[[Response, int], None],
    ) -> None:
        wanted: Json = {**session.session, **params}
        output: Json = {**session.session["audio"]["output"], **params.get("audio", {}).get("output", {})}
        self.session = session
        self._mcp = mcp
        self._ended = ended
        self.format: Json = output["format"]
        self.voice = output["voice"]
        self.bytes_per_ms = bytes_per_ms(self.format)
        self.delta_bytes = session.setup.delta_ms * self.bytes_per_ms
        self.modalities: list[str] = wanted["output_modalities"]
        self.max_tokens: int | Literal["inf"] = wanted["max_output_tokens"]
        self.output: list[Json] = []
        self.after_end: list[HostedCall] = []
        """Calls of MCP servers that run when the response is over."""
        self._params, self._wanted = params, wanted
        self._open: list[OutputMessage] = []
        self._cancelling = False
        self._fault = _next_fault(session)
        self._due = 0.0
        self._details: Json | None = None
        out_of_band = params.get("conversation") == "none"
        self.record = ResponseRecord(
            session.new_id("resp"),
            by,
            time.monotonic(),
            metadata=params.get("metadata"),
            instructions=params.get("instructions"),
            out_of_band=out_of_band,
        )
        given: list[Json] | None = params.get("input")
        self._news = session.conversation.news() if given is None else given
        self._answers = given is None and not out_of_band
        if self._answers:
            session.conversation.answer(self._news)
        self._own_input = given is not None
        self._input_tokens = input_tokens(
            wanted, session.conversation.items if given is None else given, session.conversation
        )
        session.emit("response.created", response=self.as_json())
        session.emit("rate_limits.updated", rate_limits=[self._rate_limit()])
        self._task = session.spawn(self._run())

    def as_json(self, usage: Json | None = None) -> Json:
        """Return the response object in its current state."""
        record = self.record
        return {
            "object": "realtime.response",
            "id": record.id,
            "status": record.status,
            "status_details": None if record.status == "in_progress" else self._details,
            "output": self.output,
            "conversation_id": None if record.out_of_band else self.session.conversation_id,
            "output_modalities": self.modalities,
            "max_output_tokens": self.max_tokens,
            "audio": {"output": {"format": self.format, "voice": self.voice}},
            "usage": usage,
            "metadata": record.metadata,
        }

    # -- used by its messages and calls --

    def new_item_id(self) -> str:
        return self.session.new_id("item")

    def emit(self, kind: str, *, item: Json, **fields: Any) -> None:
        """Send an event about one of this response's items."""
        about = {"response_id": self.record.id, "item_id": item["id"], "output_index": self.index(item)}
        self.session.emit(kind, **about, **fields)

    def index(self, item: Json) -> int:
        """Return the index of one of this response's items."""
        return next(at for at, other in enumerate(self.output) if other is item)

    def open_item(self, item: Json) -> None:
        """Announce an item, and add it to the conversation unless the response is out of band."""
        self.output.append(item)
        at = len(self.output) - 1
        self.session.emit("response.output_item.added", response_id=self.record.id, output_index=at, item=item)
        if not self.record.out_of_band:
            self.session.conversation.add(item, done=False)

    def close_item(self, item: Json, status: str) -> None:
        """Announce that an item is finished."""
        item["status"] = status
        self.end_output(item)
        if not self.record.out_of_band:
            self.session.conversation.finish(item)

    def end_output(self, item: Json) -> None:
        """Announce that this response is done with an item. The item may still change in the conversation."""
        about = {"response_id": self.record.id, "output_index": self.index(item)}
        self.session.emit("response.output_item.done", **about, item=item)

    def store(self, audio_item: AudioItem) -> None:
        """Record an audio item that begins. Unless the response is out of band, the item can be truncated."""
        self.session.audio_items.append(audio_item)
        if not self.record.out_of_band:
            self.session.conversation.spoken[audio_item.item_id] = audio_item

    def audio_sent(self, now: float) -> None:
        """Record when audio was first sent."""
        if self.record.first_audio_at is None:
            self.record.first_audio_at = now

    # -- from start to end --

    async def _run(self) -> None:
        brain = self.session.setup.brain
        try:
            if self._fault is not None:
                await self._think()
                if self._fault == "fail":
                    limited = self.session.setup.faults.rate_limit_resets_seconds is not None
                    self._finish("failed", {"type": "failed", "error": _LIMITED if limited else _SERVER_ERROR})
                    return
            elif not await (self._recite() if brain is None else self._improvise(brain)):
                self._finish("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
                return
            if self.output:
                # As in the real service, the response is still active for a moment after its last item is done, and a
                # client that asks for the next one at output_item.done is refused.
                await asyncio.sleep(CLOSING_SECONDS)
            self._finish("completed", None)
            for hosted in self.after_end:
                self.session.spawn(self._mcp.run(hosted))
        except BrainFailed as failure:
            log.warning("%s", failure)
            self._end_open("incomplete")
            self._finish("failed", {"type": "failed", "error": {**_SERVER_ERROR, "message": str(failure)}})
        except Exception:  # a user's own voice or ear may raise anything
            log.exception("the simulated model could not finish a response")
            self._end_open("incomplete")
            self._finish("failed", {"type": "failed", "error": _SERVER_ERROR})

    async def _think(self) -> None:
        """Wait until the model's thinking time is over."""
        await asyncio.sleep(max(0.0, self.record.created_at + self.session.setup.think_ms / 1000 - time.monotonic()))
        self._due = time.monotonic()

    def _rate_limit(self) -> Json:
        resets_seconds = self.session.setup.faults.rate_limit_resets_seconds
        if self._fault != "fail" or resets_seconds is None:
            return _RATE_LIMIT
        return {**_RATE_LIMIT, "remaining": 0, "reset_seconds": resets_seconds}

    async def _reply(self) -> Reply:
        """Wait until the caller is understood, choose the reply and render its first line."""
        session, wanted = self.session, self._wanted
        heard = await session.understood([item["id"] for item in self._news])
        question = Question(
            news=self._news,
            heard=heard,
            instructions=self._params.get("instructions"),
            tools={tool["name"] for tool in wanted["tools"] if tool["type"] == "function"},
            hosted=set() if self.record.out_of_band else self._mcp.offered(wanted["tools"]),
            schemas={
                tool["name"]: tool.get("parameters") or {"type": "object"}
                for tool in wanted["tools"]
                if tool["type"] == "function"
            },
            tool_choice=wanted["tool_choice"],
            beginning=not any(
                item.get("role") == "assistant" or item["id"] in session.conversation.turns
                for item in session.conversation.items
            ),
        )
        reply = session.replies.answer(question)
        if reply.say and self.modalities == ["audio"]:
            await session.setup.voiced(reply.say[0])
        return reply

    async def _say(self, text: str, *, last: bool) -> bool:
        """Send one item at the server's speed. Returns False if the token limit cut it."""
        text, audio, enough = await self._voiced(text)
        if audio is None:
            text, enough = self._within_limit(text)
        message = self._open_message()
        message.add(text, audio)
        await self._send_added(message)
        if last or not enough or not self.session.setup.faults.overlap_items:
            self._end_open("completed" if enough else "incomplete")
        return enough

    def _open_message(self) -> OutputMessage:
        message = OutputMessage(self, spoken=self.modalities == ["audio"])
        message.begin()
        self._open.append(message)
        return message

    async def _send_added(self, message: OutputMessage) -> None:
        """Send the added parts of a message, at the server's speed."""
        while not message.complete:
            await asyncio.sleep(max(0.0, self._due - time.monotonic()))
            message.send()
            self._due += self.session.setup.delta_ms / 1000 / self.session.setup.speed
            if len(self._open) > 1:
                # `overlap_items` left the previous item open until this one's first audio.
                self._open.pop(0).end("completed")

    async def _improvise(self, brain: Brain) -> bool:
        """Send the brain's words as they come, and make its calls. Returns False if a limit cut it."""
        message: OutputMessage | None = None
        enough = True
        async with aclosing(improvise(brain, self.session, self._params, self._wanted)) as pieces:
            async for piece in pieces:
                match piece:
                    case str():
                        words, audio, enough = await self._voiced(piece, paused=message is not None)
                        message = message or self._open_message()
                        message.whole = False
                        message.add(words, audio)
                        # Text goes out as it comes; speech goes out at the server's speed.
                        self._due = max(self._due, time.monotonic()) if audio is not None else 0.0
                        await self._send_added(message)
                        if not enough:
                            break
                    case PlannedCall():
                        self._end_open("completed")
                        message = None
                        self._call(piece)
                    case CutShort():
                        enough = False
                    case _:
                        assert_never(piece)
        self._end_open("completed" if enough else "incomplete")
        return enough

    async def _recite(self) -> bool:
        """Send the script's lines, and make its calls. Returns False if the token limit cut it."""
        reply = await self._reply()
        await self._think()
        for number, text in enumerate(reply.say, 1):
            if not await self._say(text, last=number == len(reply.say)):
                return False
        for call in reply.calls:
            if call.server is None:
                self._call(call)
            else:
                await self._mcp.call(self, call)
        return True

    async def _voiced(self, text: str, *, paused: bool = False) -> tuple[str, bytes | None, bool]:
        """Return the part of a line that fits into the token limit, its audio, and whether it is the whole line.

        With `paused`, the pause between two sentences comes first. A line of text has no audio, and no limit here.
        """
        if self.modalities != ["audio"]:
            return text, None, True
        audio = await self.session.setup.voiced(text, self.format)
        if paused:
            audio = from_ulaw(silence(PAUSE_MS), self.format) + audio
        if isinstance(self.max_tokens, str):
            return text, audio, True
        room = max(0, self.max_tokens * MODEL_TOKEN_MS * self.bytes_per_ms - self._audio_bytes())
        return words_within(text, room, len(audio)), audio[:room], len(audio) <= room

    def _within_limit(self, text: str) -> tuple[str, bool]:
        """Return the part of a written line that fits into the token limit, and whether it is the whole line."""
        if isinstance(self.max_tokens, str):
            return text, True
        written = sum(len(part.get("text", "")) for item in self.output for part in item.get("content", ()))
        room = max(0, self.max_tokens * CHARACTERS_A_TOKEN - written)
        return words_within(text, room, len(text)), len(text) <= room

    def _call(self, call: PlannedCall) -> None:
        session = self.session
        call_id = session.new_id("call")
        item: Json = {
            "id": session.new_id("item"),
            "object": "realtime.item",
            "type": "function_call",
            "status": "in_progress",
            "name": call.name,
            "call_id": call_id,
            "arguments": "",
        }
        self.open_item(item)
        kind = "response.function_call_arguments"
        for at in range(0, len(call.arguments), 16):
            self.emit(f"{kind}.delta", item=item, call_id=call_id, delta=call.arguments[at : at + 16])
        item["arguments"] = call.arguments
        self.emit(f"{kind}.done", item=item, call_id=call_id, name=call.name, arguments=call.arguments)
        session.tool_calls.append(ToolCallRecord(call.name, call_id, call.arguments, time.monotonic()))
        session.replies.called(call_id, call)
        self.close_item(item, "completed")

    def cancel(self, reason: Literal["turn_detected", "client_cancelled"]) -> None:
        """Stop generating. The end is announced at once, or after the delay of `Faults.slow_cancel_seconds`."""
        if self._cancelling or self.record.status != "in_progress":
            return
        self._cancelling = True
        self._task.cancel()
        faults = self.session.setup.faults
        for _ in range(faults.stray_deltas):
            if self._open and not self._open[-1].complete:
                self._open[-1].send()
        if faults.slow_cancel_seconds:
            self.session.spawn(self._end_cancelled_later(reason, faults.slow_cancel_seconds))
        else:
            self._end_cancelled(reason)

    async def _end_cancelled_later(self, reason: str, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        self._end_cancelled(reason)

    def _end_cancelled(self, reason: str) -> None:
        self._end_open("incomplete")
        self.record.reason = reason
        self._finish("cancelled", {"type": "cancelled", "reason": reason})

    def _end_open(self, status: str) -> None:
        for message in self._open:
            message.end("completed" if message.complete and message is not self._open[-1] else status)
        self._open.clear()

    def _finish(self, status: str, details: Json | None) -> None:
        session, record = self.session, self.record
        record.status, record.done_at, self._details = status, time.monotonic(), details
        record.reason = (details or {}).get("reason")
        if self._answers and not self.output:
            session.conversation.give_back(self._news)
        audio_ms = self._audio_bytes() // self.bytes_per_ms
        cached = 0 if self._own_input else session.tokens_read
        figures = usage(self._input_tokens, cached, self.output, audio_ms)
        if not self._own_input:
            session.tokens_read = figures["input_tokens"]
        session.emit("response.done", response=self.as_json(figures))
        played_from = record.first_audio_at or record.done_at
        self._ended(self, max(0, audio_ms - round((record.done_at - played_from) * 1000)))

    def _audio_bytes(self) -> int:
        return sum(len(item.audio) for item in self.session.audio_items if item.response_id == self.record.id)


def _next_fault(session: SessionState) -> Literal["fail", "silent"] | None:
    """Return the fault of the response that begins now."""
    number, faults = len(session.responses), session.setup.faults
    if number < faults.fail_responses:
        return "fail"
    return "silent" if number < faults.fail_responses + faults.silent_response else None


_RATE_LIMIT = {"name": "tokens", "limit": 40_000, "remaining": 35_000, "reset_seconds": 7.5}
