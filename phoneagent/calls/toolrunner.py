"""The tool runner of a call: it records each tool call before running it, and runs a `once` tool once per arguments.

An earlier call with the same arguments is known from this media stream, or from the record of the call's earlier
streams, in any process. If its outcome is unknown, the tool is not run again, and the model learns so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from phoneagent.agent.call import Call
from phoneagent.agent.tools import Tool, failure
from phoneagent.bridge.history import ToolRun
from phoneagent.bridge.requests import RunTool
from phoneagent.calls.next_step import Journal
from phoneagent.errors import PhoneAgentError

JOURNAL_SECONDS = 0.5
"""How long a tool waits for the database to record it before it runs."""

OUTCOME_UNKNOWN = failure(
    "outcome unknown: the same call was begun before and cut off. It was not run again. Check before you repeat it."
)
NOT_RUN = failure("it was not run, because it could not be recorded first. It may be tried again later.")
"""The output of a `once` tool whose run cannot be recorded: another process could not know of it."""

MOVED = failure("not run: the connection was lost before")
"""The output of a tool whose call has moved to another media stream: the model may call the tool again there."""


class ToolRunner:
    """Runs the tools of one call. `past` are the tool calls of earlier media streams; `report` takes problems.

    `moved` returns whether the call has moved to another media stream. `journal` is None where nothing is recorded.
    """

    def __init__(
        self,
        call: Call,
        journal: Journal | None,
        *,
        past: Sequence[ToolRun],
        report: Callable[[str], None],
        moved: Callable[[], bool],
    ) -> None:
        self._call = call
        self._journal = journal
        self._past = past
        self._report = report
        self._moved = moved
        self._first: dict[tuple[str, str], asyncio.Future[str]] = {}

    async def run(self, tool: Tool | None, request: RunTool) -> str:
        """Run a tool, and return its output for the model; `tool` is None if the agent does not have it."""
        if tool is None:
            return failure(f"there is no tool named {request.name}")
        if tool.once and (arguments := tool.canonical(request.arguments)) is not None:
            return await self._run_once(tool, request, arguments)
        if not await self._record(request):
            self._report("a tool runs although it could not be recorded beforehand")
        if self._moved():
            return MOVED
        return await tool.run(self._call, request.arguments)

    async def _run_once(self, tool: Tool, request: RunTool, arguments: str) -> str:
        key = (tool.name, arguments)
        if (first := self._first.get(key)) is not None:
            return await asyncio.shield(first)  # a canceled waiter must not cancel the run for the others
        first = self._first[key] = asyncio.get_running_loop().create_future()
        output = OUTCOME_UNKNOWN
        try:
            if (before := self._before(tool, arguments)) is not None:
                output = before
            elif not await self._record(request):
                del self._first[key]  # the model may try again
                output = NOT_RUN
                self._report("a tool with once=True was not run: it could not be recorded beforehand")
            elif self._moved():
                output = MOVED
            else:
                output = await tool.run(self._call, request.arguments)
            return output
        finally:
            first.set_result(output)

    def _before(self, tool: Tool, arguments: str) -> str | None:
        """Return the output of the same tool call in an earlier media stream; None if the tool did not run there."""
        same = [run for run in self._past if run.name == tool.name and tool.canonical(run.arguments) == arguments]
        started = [run for run in same if run.output not in (NOT_RUN, MOVED)]
        if not started:
            return None
        return next((run.output for run in started if run.output is not None), OUTCOME_UNKNOWN)

    async def _record(self, request: RunTool) -> bool:
        """Record that a tool is about to run, and return whether that worked.

        The time limit keeps a database that does not answer from making the caller wait.
        """
        if self._journal is None:
            return True
        try:
            async with asyncio.timeout(JOURNAL_SECONDS):
                await self._journal.tool_started(self._call.sid, request.call_id, request.name, request.arguments)
        except (PhoneAgentError, TimeoutError):
            return False
        return True
