"""The app under `serve --reload`: a process that restarts when a file changes."""

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
"""The exit status of a process whose app cannot start. The next file change starts another one."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Everything that the process of each change needs. It is pickled for that process."""

    target: Target
    settings: dict[str, Any]
    """Settings given on the command line; the others are read again each time."""
    uvicorn: dict[str, Any]
    log_config: dict[str, Any]

    def run(self, sockets: list[socket.socket]) -> None:
        """Answer calls until the process is told to end. Errors in the user's module are logged."""
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
        """Run that process, and restart it when a file in the app's folder changes."""
        config = uvicorn.Config(
            self.target.module, reload=True, reload_dirs=[self.target.folder], log_config=self.log_config
        )
        ChangeReload(config, target=self.run, sockets=[listening]).run()  # type: ignore[arg-type]


class ReloadedServer(uvicorn.Server):
    """uvicorn's server, which first ends the app's event streams: uvicorn would wait for them without a limit."""

    def __init__(self, config: uvicorn.Config, app: PhoneApp) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.end_streams()
        await super().shutdown(sockets)
