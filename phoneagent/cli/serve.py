"""`phoneagent serve`: the app, for real."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer
import uvicorn

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
}
"""How uvicorn serves phone calls."""

NOISY = ("websockets", "asyncio", "twilio", "urllib3", "uvicorn.access")
"""Loggers that are heard from a warning on."""


def log_config(level: str, form: Literal["text", "json"] | None) -> dict[str, Any]:
    """Return how to log: to standard error, text on a terminal and JSON elsewhere, unless `form` says.

    It is a value because uvicorn carries it into the process that `--reload` starts anew.
    """
    as_json = form == "json" or (form is None and not sys.stderr.isatty())
    text = {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonFormatter} if as_json else text},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {name: {"level": "WARNING"} for name in NOISY},
    }


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
    loaded = app.settings
    options: dict[str, Any] = {
        "host": host,
        "port": loaded.port if port is None else port,
        "log_config": log_config(loaded.log_level, loaded.log_format),
        **UVICORN,
    }
    if reload:
        name = f"{found.module}:{found.attribute}"
        uvicorn.run(name, app_dir=found.folder, reload=True, reload_dirs=[found.folder], **options)
    else:
        Server(uvicorn.Config(app, **options), app, loaded.drain_seconds).run()
