"""The agent that has the call, and the change from one agent to another: same model session, other instructions."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from phoneagent.agent.agent import Agent, name_of, team_of
from phoneagent.agent.call import Call
from phoneagent.agent.handoffs import INSTRUCTIONS_SECONDS, hand_off_output, hand_off_tool, is_hand_off
from phoneagent.agent.tools import Tool
from phoneagent.bridge.history import ToolRun
from phoneagent.bridge.requests import SessionChanged
from phoneagent.errors import ToolError

log = logging.getLogger("phoneagent.calls.active_agent")

ANSWER_SECONDS = 2.0
"""How long the model's server may take to refuse a change; after that the change counts as taken."""

SPARE_SECONDS = 1.0
"""How much later than its steps a hand-off is canceled: between them, the model and the call could differ."""


class ActiveAgent:
    """The agent of a team that has the call.

    `change_session` changes the model's session and returns an id, under which the server's answer comes back to
    `session_changed`; `flush` writes the change, which comes from within a tool. An agent gets the call once the
    session has its configuration. `agent_named` takes the name of the agent that speaks. A model's voice cannot be
    changed once it has been heard: `voice_fixed` tells whether it has.

    `past` has the tool calls made before this media stream: the agent that had the call then gets it back.
    """

    def __init__(
        self,
        agent: Agent,
        call: Call,
        *,
        past: Sequence[ToolRun],
        change_session: Callable[[Mapping[str, Any]], str],
        flush: Callable[[], None],
        agent_named: Callable[[str], None],
        voice_fixed: Callable[[], bool],
    ) -> None:
        self.agent = self._answered = self._voice = agent
        self._team = team_of(agent)
        self._call = call
        self._change_session = change_session
        self._flush = flush
        self._agent_named = agent_named
        self._voice_fixed = voice_fixed
        self._given: dict[str, Mapping[str, Any]] = {}  # the sessions of agents that have had the call, by name
        self._changes: dict[str, asyncio.Future[str | None]] = {}  # waiting for an answer
        for run in past:
            target = self._target(run.name)
            if target is not None and run.output == hand_off_output(target.name):
                self.agent = target
        agent_named(self.agent.name)

    def tool(self, name: str) -> Tool | None:
        """Return the active agent's tool with that name."""
        target = self._target(name)
        if target is None:
            known = self.agent.tool(name)
            return None if known is None or is_hand_off(known) else known
        return replace(
            hand_off_tool(target.name),
            handler=functools.partial(self._hand_over, target),
            timeout=INSTRUCTIONS_SECONDS + ANSWER_SECONDS + SPARE_SECONDS,
        )

    def _target(self, tool_name: str) -> Agent | None:
        names = (name for name in map(name_of, self.agent.handoffs) if hand_off_tool(name).name == tool_name)
        name = next(names, None)
        return None if name is None else self._team.get(name)

    async def _hand_over(self, target: Agent, arguments: Mapping[str, Any]) -> str:
        session = await self._session_in_time(target)
        answer = self._configure(session)
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                if (refusal := await answer) is not None:
                    raise ToolError(f"the call was not handed over ({refusal}): you still have it")
        self._voice = self._voice if self._voice_fixed() else target
        self._adjust(target)
        self._give_to(target)
        self._given[target.name] = session
        return hand_off_output(target.name)

    def session_changed(self, changed: SessionChanged) -> None:
        """Handle the server's answer to a change."""
        answer = self._changes.pop(changed.change_id, None)
        if answer is not None and not answer.done():
            answer.set_result(changed.refusal)

    async def session_opened(self) -> None:
        """Reconfigure a new session, set up for the agent that answered, for the agent that has the call now.

        If that agent's instructions cannot be produced now, the earlier ones stay: the caller is in the middle of a
        conversation.

        Raises:
            Exception: whatever the agent's own function raises, or TimeoutError, if this media stream has no earlier
                ones; the agent that answered then has the call.
        """
        if self.agent is self._answered:
            return
        target = self.agent
        self._give_to(self._answered)
        try:
            async with asyncio.timeout(INSTRUCTIONS_SECONDS):
                self._given[target.name] = await self._session_of(target)
        except Exception:  # a user's function, or too slow
            if target.name not in self._given:
                raise
            log.exception(
                "agent %r goes on with its earlier instructions", target.name, extra={"call_sid": self._call.sid}
            )
        answer = self._configure(self._given[target.name])
        self._adjust(target)
        self._give_to(target)

        def settle(answer: asyncio.Future[str | None]) -> None:
            if not answer.cancelled() and answer.result() is not None and self.agent is target:
                self._give_to(self._answered)

        answer.add_done_callback(settle)  # it comes once the call goes on

    def _give_to(self, agent: Agent) -> None:
        self.agent = agent
        self._agent_named(agent.name)

    async def _session_of(self, target: Agent) -> Mapping[str, Any]:
        return target.session(await target.instructions_for(self._call))

    async def _session_in_time(self, target: Agent) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(INSTRUCTIONS_SECONDS) as limit:
                return await self._session_of(target)
        except TimeoutError:
            if not limit.expired():
                raise  # it is the user's function's own
            words = f"{target.name!r} was not ready within {INSTRUCTIONS_SECONDS:g} s"
            log.warning("a call was not handed over: agent %s", words, extra={"call_sid": self._call.sid})
            raise ToolError(f"the call was not handed over, because {words}: you still have it") from None

    def _configure(self, session: Mapping[str, Any]) -> asyncio.Future[str | None]:
        """Change the model's session to this one. Returns the server's answer: None, or why it refuses."""
        return self._change({key: session[key] for key in ("type", "instructions", "tools")})

    def _adjust(self, target: Agent) -> None:
        """Apply the other differences one by one: the server refuses a whole update if it refuses a part of it."""
        session, voice = target.session(""), _voice_of(self._voice.session(""))
        if session.get("tool_choice") != self.agent.session("").get("tool_choice"):
            self._change({"type": session["type"], "tool_choice": session.get("tool_choice", "auto")})
        if voice != _voice_of(self._answered.session("")):
            self._change({"type": session["type"], "audio": {"output": voice}})

    def _change(self, session: Mapping[str, Any]) -> asyncio.Future[str | None]:
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._changes[self._change_session(session)] = answer
        self._flush()
        return answer


def _voice_of(session: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in session["audio"]["output"].items() if key != "format"}
