"""`phoneagent serve`: the app, for real."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any, Literal

import typer
import uvicorn

from phoneagent import settings
from phoneagent.drain import Server
from phoneagent.protocol.mediastream import MAX_MESSAGE_BYTES
from phoneagent.telemetry import JsonFormatter

from .target import Target

UVICORN: dict[str, Any] = {
    "ws": "websockets-sansio",
    "ws_per_message_deflate": False,  # Twilio offers none
    "ws_max_size": MAX_MESSAGE_BYTES,
    "proxy_headers": False,  # nothing is ever concluded from X-Forwarded-*
    "server_header": False,
    "log_config": None,
}
"""How uvicorn serves phone calls."""


def configure_logging(level: str, form: Literal["text", "json"] | None) -> None:
    """Send the log to standard error, a line each: text on a terminal and JSON elsewhere, unless `form` says."""
    as_json = form == "json" or (form is None and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("websockets", "asyncio", "twilio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)


def serve(
    target: Annotated[
        str | None, typer.Argument(help="The app: `module:app` or `file.py`; without it main.py, app.py or agent.py.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",  # noqa: S104 - a PaaS needs it
    port: Annotated[int | None, typer.Option(help="The port; without it PORT, or 8000.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Restart when a file changes, for development.")] = False,
) -> None:
    """Answer calls: run the app on PORT."""
    found = Target.find(target)
    app = found.load()
    loaded = settings.load() if reload else app.settings
    configure_logging(loaded.log_level, loaded.log_format)
    where: dict[str, Any] = {"host": host, "port": loaded.port if port is None else port}
    if reload:
        uvicorn.run(f"{found.module}:{found.attribute}", app_dir=found.folder, reload=True, **where, **UVICORN)
    else:
        Server(uvicorn.Config(app, **where, **UVICORN), app, loaded.drain_seconds).run()
