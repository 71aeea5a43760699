"""The server of the demonstration: a process of its own, with credentials of its own, that ends with the context."""

from __future__ import annotations

import json
import socket

import aiohttp
import pytest

from phoneagent.demo import serving
from phoneagent.demo.serving import PUBLIC_URL, TAIL_LINES, Server, ServerFailed, serve, tail

pytestmark = pytest.mark.anyio

MODEL = {"model_url": "ws://127.0.0.1:9/v1/realtime", "model_key": "the-model-key"}
AGENT = """
import json, os, pathlib
from phoneagent import Agent, PhoneApp
pathlib.Path(__file__).with_name("environment.json").write_text(json.dumps(dict(os.environ)))
app = PhoneApp(Agent(instructions="Be brief."))
"""
IGNORES_SIGNALS = """
import json, os, pathlib, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""
HANGS = "import threading; threading.Event().wait()"


@pytest.fixture
def target(tmp_path):
    file = tmp_path / "agent_of_a_test.py"
    file.write_text(AGENT)
    return str(file)


def refuses_connections(server: Server) -> bool:
    port = int(server.webhook_url.split(":")[2].split("/")[0])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_the_app_is_up_while_the_context_lasts(target, tmp_path):
    async with serve(target, log=tmp_path / "log", **MODEL) as server:
        async with aiohttp.ClientSession() as http, http.post(server.webhook_url) as answer:
            assert answer.status == 403, "an unsigned webhook is refused, as in production"
        assert server.public_url == PUBLIC_URL
    assert refuses_connections(server)
    assert "listening on" in tail(tmp_path / "log")


async def test_accounts_and_keys_of_the_user_do_not_reach_the_app(target, tmp_path, monkeypatch):
    for name, value in {
        "OPENAI_API_KEY": "sk-real",
        "twilio_auth_token": "a-real-token",
        "TWILIO_ACCOUNT_SID": "AC" + "9" * 32,
        "PUBLIC_URL": "https://real.example",
        "REALTIME_URL": "wss://real.example",
        "PHONEAGENT_ENV_FILE": str(tmp_path / "real.env"),
        "DENY_CALLERS": "+15550100001",
        "PORT": "1",
        "WEB_CONCURRENCY": "2",
        "MAX_CALL_COST": "0.01",
        "RATE_LIMIT_RESERVE": "1",
        "HELICONE_API_KEY": "sk-helicone-real",
        "DATABASE_URL": f"sqlite:///{tmp_path}/phoneagent.db",
        "RECORD_DAYS": "1",
        "A_SETTING_OF_THE_APP": "kept",
    }.items():
        monkeypatch.setenv(name, value)
    async with serve(target, log=tmp_path / "log", **MODEL) as server:
        pass
    seen = json.loads((tmp_path / "environment.json").read_text())
    assert "sk-real" not in seen.values()
    assert (seen["PUBLIC_URL"], seen["PHONEAGENT_ENV_FILE"]) == (PUBLIC_URL, "")
    assert seen.keys().isdisjoint({"twilio_auth_token", "DENY_CALLERS", "PORT", "WEB_CONCURRENCY"})
    assert seen.keys().isdisjoint({"MAX_CALL_COST", "RATE_LIMIT_RESERVE", "HELICONE_API_KEY"})
    assert seen["A_SETTING_OF_THE_APP"] == "kept"
    assert (seen["DATABASE_URL"], seen["RECORD_DAYS"]) == (f"sqlite:///{tmp_path}/demo.db", "36500")
    assert not (tmp_path / "phoneagent.db").exists(), "a folder may have the app's own database"
    assert (seen["REALTIME_URL"], seen["REALTIME_API_KEY"]) == (MODEL["model_url"], MODEL["model_key"])
    assert (seen["TWILIO_ACCOUNT_SID"], seen["TWILIO_AUTH_TOKEN"]) == (server.account_sid, server.auth_token)


async def test_an_app_that_does_not_come_up(tmp_path):
    with pytest.raises(ServerFailed, match="ended with status 2 before it served") as failed:
        async with serve("nothing_here.py", log=tmp_path / "server.log", **MODEL):
            pass
    assert "nothing_here.py" in failed.value.tail
    assert str(tmp_path / "server.log") in str(failed.value)


async def test_an_app_that_does_not_answer_in_time_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "START_SECONDS", 0.3)
    (tmp_path / "hangs.py").write_text(HANGS)
    with pytest.raises(ServerFailed, match=r"did not answer GET /healthz within 0\.3 s"):
        async with serve(str(tmp_path / "hangs.py"), log=tmp_path / "log", **MODEL):
            pass


async def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.1)
    (tmp_path / "stubborn.py").write_text(IGNORES_SIGNALS)
    async with serve(str(tmp_path / "stubborn.py"), log=tmp_path / "log", **MODEL) as server:
        assert not refuses_connections(server)
    assert refuses_connections(server)


def test_the_tail_is_the_log_s_last_lines_whatever_is_in_them(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(30)) + b"\xff broken\n")
    lines = tail(log).splitlines()
    assert len(lines) == TAIL_LINES
    assert lines[0] == "line 16"
    assert lines[-1].endswith(" broken")


def test_the_token_is_not_in_the_repr():
    assert "the-token" not in repr(Server("http://127.0.0.1:9", "AC1", "the-token"))
