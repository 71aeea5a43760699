"""`phoneagent serve`: the app under uvicorn, in one process or several."""

from __future__ import annotations

import errno
import logging
import logging.config
import socket
import sys
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from phoneagent.cli import limits, reloading, workers
from phoneagent.cli.failures import fail, port_problem
from phoneagent.cli.target import Target
from phoneagent.errors import ConfigurationError
from phoneagent.errors.network import REQUESTS, WEBSOCKETS, find_faults
from phoneagent.protocol.mediastream import MAX_MESSAGE_BYTES
from phoneagent.server import VOICE_PATH, PhoneApp
from phoneagent.settings import THIS_MACHINE, Settings, load, misspelled_names
from phoneagent.telemetry import JsonFormatter, TextFormatter
from phoneagent.twilio import API_URL
from phoneagent.twilio.verification import is_loopback

log = logging.getLogger("phoneagent.serve")

EVERYWHERE = "0.0.0.0"  # noqa: S104 - a PaaS connects from outside
BACKLOG = 2048
"""How many connections may wait while a worker is busy or starting; uvicorn has the same limit."""

UVICORN: dict[str, Any] = {  # classes by name, because it is pickled for workers
    "http": "phoneagent.cli.limits:RequestProtocol",
    "h11_max_incomplete_event_size": limits.MAX_HEAD_BYTES - 1,
    "ws": "phoneagent.cli.direct:DirectProtocol",
    "ws_per_message_deflate": False,  # Twilio offers none
    "ws_max_size": MAX_MESSAGE_BYTES,
    "ws_ping_timeout": None,  # a late pong must not end a call; the bridge ends one without media for 15 s
    "proxy_headers": False,  # X-Forwarded-* come from the client and are never used
    "server_header": False,
}
"""How uvicorn serves phone calls."""

MEDIA_SOCKETS = {"direct": UVICORN["ws"], "asgi": "phoneagent.cli.limits:MediaProtocol"}
"""How the frames of a call reach the app, by the value of `--media-socket`."""

NOISY = ("websockets", "asyncio", "twilio", "urllib3", "uvicorn.access", "aiosqlite", "asyncpg", "sqlalchemy")
"""Loggers that log warnings and errors only: below that, some repeat what callers say."""


def log_config(level: str, form: Literal["text", "json"] | None) -> dict[str, Any]:
    """Return the logging configuration: to standard error, by default as text on a terminal and as JSON elsewhere.

    It is a dict because uvicorn passes it to the process that `--reload` starts.
    """
    as_json = form == "json" or (form is None and not sys.stderr.isatty())
    text = {"()": TextFormatter, "fmt": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}
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
        str | None, typer.Argument(help="The app, as `module:app` or `file.py`. Default: main.py, app.py or agent.py.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on. Default: all addresses of this machine.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port. Default: PORT, or 8000.", min=0, max=65535)] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Restart when a file changes, for development.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take unsigned calls, only from this machine. Needs no Twilio account.")
    ] = False,
    media_socket: Annotated[
        Literal["direct", "asgi"],
        typer.Option(help="How audio reaches the app: directly, or as ASGI messages, which costs more CPU."),
    ] = "direct",
    show_transcript: Annotated[
        bool, typer.Option("--show-transcript", help="Log what is said, for development.")
    ] = False,
    local_api: Annotated[
        bool,
        typer.Option("--local-api", help="Open the console and its API to this machine, for development."),
    ] = False,
    log_messages: Annotated[
        bool,
        typer.Option("--log-messages", help="Keep each message of a call for /calls/{sid}/log, for development."),
    ] = False,
) -> None:
    """Answer calls: run the app on PORT, in WEB_CONCURRENCY processes."""
    found = Target.find(target)
    app = found.load()
    if insecure:
        _make_insecure(app, reload)
    options_given = {"show_transcript": show_transcript, "local_api": local_api, "log_messages": log_messages}
    given = {name: True for name, is_given in options_given.items() if is_given}
    app.settings = loaded = _settings_of(app, found).model_copy(update=given)
    app.check()  # an error here is one line; while the server starts, it would be a traceback
    address = _address(host, loaded)
    logs = log_config(loaded.log_level, loaded.log_format)
    listening = _listen(address, loaded.port if port is None else port)
    options: dict[str, Any] = {"host": address, "port": listening.getsockname()[1], **UVICORN}
    options["ws"] = MEDIA_SOCKETS[media_socket]
    if reload:
        reloading.Reloaded(found, given, options, logs).watch(listening)
        return
    logging.config.dictConfig(logs)
    if loaded.insecure:  # a phone on this machine has no PUBLIC_URL, but must find the media socket
        app.settings = loaded = loaded.model_copy(update={"public_url": _url(address, options["port"])})
    limits.raise_max_files()  # workers inherit it
    _tell_faults(app)
    with listening, workers.signals_held(loaded.web_concurrency):  # once announced, it must lose no signal
        _announce(_url(address, options["port"]), loaded)
        job = workers.Job(found, loaded, options, logs)
        if loaded.web_concurrency == 1:
            job.run(app, listening)
        elif status := workers.run(job, listening, loaded.web_concurrency):
            raise typer.Exit(status)


def _settings_of(app: PhoneApp, target: Target) -> Settings:
    """Return the app's settings.

    Raises:
        ConfigurationError: some are missing or malformed. A `.env` beside the app, which is not read, is named.
    """
    try:
        return app.settings
    except ConfigurationError as error:
        raise target.explained(error) from None


def _tell_faults(app: PhoneApp) -> None:
    """Log what is wrong in the environment for a call's connections. The process starts anyway."""
    faults: list[object] = [
        fault for each in app.endpoints or [app.endpoint] for fault in find_faults(each.url, WEBSOCKETS)
    ]
    if not app.settings.insecure:
        faults += find_faults(app.settings.twilio_api_url or API_URL, REQUESTS)
        if urlsplit(app.settings.public_url).hostname in THIS_MACHINE:
            faults.append("PUBLIC_URL is this machine, which Twilio cannot reach: `phoneagent dev` opens a tunnel")
    for line in dict.fromkeys(map(str, [*faults, *misspelled_names()])):
        log.warning("%s", line)


def _make_insecure(app: PhoneApp, reload: bool) -> None:
    """Make the app run without a Twilio account and without signatures, whatever its settings say.

    Raises:
        ConfigurationError: a setting that is not Twilio's is missing or malformed.
    """
    if reload:  # the process that it starts would not know about --insecure
        raise ConfigurationError(["--insecure and --reload do not go together: leave one of them out"])
    try:
        found = app.settings
    except ConfigurationError:
        found = load({"insecure": True})
    app.settings = found.model_copy(update={"insecure": True})


def _address(host: str | None, loaded: Settings) -> str:
    """Return the address to listen on.

    Raises:
        ConfigurationError: an insecure app would be open to other machines.
    """
    if not loaded.insecure:
        return host or EVERYWHERE
    if host is not None and not is_loopback(host):
        raise ConfigurationError([f"--insecure listens on loopback only, not on {host}: leave --host out"])
    return host or "127.0.0.1"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dualstack = family is socket.AF_INET6 and socket.has_dualstack_ipv6()  # `::` stands for all IPv4 and IPv6 addresses
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dualstack)
    except OSError as problem:
        if problem.errno in (errno.EADDRINUSE, errno.EACCES):
            fail(f"{port_problem(port, problem)} with --port or PORT")
        fail(f"{host} is not an address of this machine: change --host, or leave it out")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(url: str, loaded: Settings) -> None:
    processes = f", {loaded.web_concurrency} processes" if loaded.web_concurrency > 1 else ""
    log.info("listening on %s%s", url, processes)
    if loaded.insecure:
        words = "INSECURE: programs on this machine can make unsigned calls, and each call costs what the model costs"
        log.warning("%s; try `phoneagent sim call %s%s`", words, url, VOICE_PATH)
        log.info("see every call at %s/console", url)
    else:
        log.info('Twilio calls %s%s: set it as "A call comes in" of your number', loaded.public_url, VOICE_PATH)
        if loaded.local_api or loaded.api_token is not None:
            log.info("see every call at %s/console", url if loaded.local_api else loaded.public_url)
