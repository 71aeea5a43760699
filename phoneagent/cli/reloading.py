"""The app under `serve --reload`: a process that starts anew when a file changes."""

from __future__ import annotations

import logging
import logging.config
import socket
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.supervisors import ChangeReload

from phoneagent.cli.examining import examining
from phoneagent.cli.target import Target
from phoneagent.errors import PhoneAgentError
from phoneagent.server import PhoneApp

log = logging.getLogger("phoneagent.serve")

CANNOT_START = 3
"""The exit status of a process whose app cannot start. The next change of a file starts another one."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Everything that the process needs which is started for each change. It is pickled for it."""

    target: Target
    settings: dict[str, Any]
    """Settings that the command line has given; the others are read anew each time."""
    uvicorn: dict[str, Any]
    log_config: dict[str, Any]

    def run(self, sockets: list[socket.socket]) -> None:
        """Answer calls until the process is told to end. What is wrong with the user's module is said in its lines."""
        try:
            app = self.target.load()
            app.settings = app.settings.model_copy(update=self.settings)
            app.check()
        except PhoneAgentError as error:
            for line in str(error).splitlines():
                log.error("%s", line)
            raise SystemExit(CANNOT_START) from None
        app.examine = examining(app)
        config = uvicorn.Config(app, log_config=None, workers=1, **self.uvicorn)
        ReloadedServer(config, app).run(sockets=sockets)

    def watch(self, listening: socket.socket) -> None:
        """Run that process, and start it anew when a file in the folder of the app changes."""
        config = uvicorn.Config(
            self.target.module, reload=True, reload_dirs=[self.target.folder], log_config=self.log_config
        )
        ChangeReload(config, target=self.run, sockets=[listening]).run()  # type: ignore[arg-type]


class ReloadedServer(uvicorn.Server):
    """uvicorn, ending the app's streams of events first: it waits for them without a limit."""

    def __init__(self, config: uvicorn.Config, app: PhoneApp) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.end_streams()
        await super().shutdown(sockets)
