"""Running the tools of a call: each call is written down before it runs, and a `once` tool acts once for its arguments.

Whether an earlier call of the same arguments has acted is known from this media stream, and from the record of those
before it, in whatever process they were. If nobody knows how it ended, it is not run again: the model is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from phoneagent.agent.call import Call
from phoneagent.agent.tools import Tool, failure
from phoneagent.bridge.history import ToolRun
from phoneagent.bridge.requests import RunTool
from phoneagent.errors import PhoneAgentError
from phoneagent.events import Journal

JOURNAL_SECONDS = 0.5
"""How long a tool waits to be written down before it runs."""

OUTCOME_UNKNOWN = failure(
    "outcome unknown: the same call was begun before and cut off. It was not run again. Check before you repeat it."
)
NOT_RUN = failure("it was not run: nothing can be written down at the moment. It may be tried again later.")
"""What becomes of a `once` tool without a journal: it acts only if everybody will know that it has."""

MOVED = failure("not run: the connection was lost before")
"""The call goes on elsewhere, and the model asks again there if it still wants it."""


class ToolRunner:
    """The tools of one call. `past` are the calls that were made before this media stream; `report` takes troubles.

    `moved` tells whether the call has left this media stream for another one.
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
        """Run a tool, and return what the model is told; None is a tool that nobody has."""
        if tool is None:
            return failure(f"there is no tool named {request.name}")
        if tool.once and (arguments := tool.canonical(request.arguments)) is not None:
            return await self._run_once(tool, request, arguments)
        if not await self._note(request):
            self._report("a tool runs that could not be written down before")
        if self._moved():
            return MOVED
        return await tool.run(self._call, request.arguments)

    async def _run_once(self, tool: Tool, request: RunTool, arguments: str) -> str:
        key = (tool.name, arguments)
        if (first := self._first.get(key)) is not None:
            return await asyncio.shield(first)  # the one who waits may be cancelled, the others still wait
        first = self._first[key] = asyncio.get_running_loop().create_future()
        output = OUTCOME_UNKNOWN
        try:
            if (before := self._before(tool, arguments)) is not None:
                output = before
            elif not await self._note(request):
                del self._first[key]
                output = NOT_RUN
                self._report("a tool that acts once was not run: it could not be written down before")
            elif self._moved():
                output = MOVED
            else:
                output = await tool.run(self._call, request.arguments)
            return output
        finally:
            first.set_result(output)

    def _before(self, tool: Tool, arguments: str) -> str | None:
        """Return what came of the same call in an earlier media stream; None if there was none."""
        same = [run for run in self._past if run.name == tool.name and tool.canonical(run.arguments) == arguments]
        begun = [run for run in same if run.output not in (NOT_RUN, MOVED)]
        if not begun:
            return None
        return next((run.output for run in begun if run.output is not None), OUTCOME_UNKNOWN)

    async def _note(self, request: RunTool) -> bool:
        """Write down that a tool is about to run; a database that is away does not keep the caller waiting."""
        if self._journal is None:
            return True
        try:
            async with asyncio.timeout(JOURNAL_SECONDS):
                await self._journal.tool_started(self._call.sid, request.call_id, request.name, request.arguments)
        except (PhoneAgentError, TimeoutError):
            return False
        return True
