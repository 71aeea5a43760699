"""A client that a stranger's generator makes of `/openapi.json`, and a call that it drives from dialing to transfer."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.console.test_playing import wav
from tests.patience import HANG_SECONDS
from tests.strangers.conftest import interpreter

NAME = "generated_control_api"
CONFIG = """
post_hooks: []
content_type_overrides: { "audio/wav": "application/octet-stream" }
"""
SECONDS = 60


def generate(document: Any, folder: Path) -> None:
    """Make the package of the client. Whatever of the document the generator cannot express fails it."""
    (folder / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    python = interpreter("openapi_client", ["openapi_python_client"])  # which wants other versions than we do
    command = [python, "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    options = ["--path", "openapi.json", "--config", "config.yaml", "--output-path", NAME]
    done = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, encoding="utf-8", timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Generated:
    """The package, once its folder is on the path: its functions, which answer with the whole response."""

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        found: Callable[..., Any] = importlib.import_module(f"{NAME}.api.calls.{operation}").asyncio_detailed
        return found

    @property
    def models(self) -> ModuleType:
        return importlib.import_module(f"{NAME}.models")

    def client(self, url: str, token: str) -> Any:
        module = importlib.import_module(f"{NAME}.client")
        return module.AuthenticatedClient(base_url=url, token=token, timeout=None, raise_on_unexpected_status=True)


@dataclass
class Driver:
    """Drives one call with nothing but the client."""

    api: Generated
    client: Any
    sid: str = ""

    async def dial(self, **body: Any) -> Any:
        """Make a call, twice as after a lost answer, and return it once it is answered."""
        models = self.api.models
        wanted = models.Dial(**body, first=models.DialFirst.AGENT)
        ids = set()
        for _ in range(2):
            answer = await self.api.post_calls(client=self.client, body=wanted, idempotency_key="visit-7")
            assert answer.status_code == 202, answer.content
            assert answer.headers["location"] == f"/calls/outbound/{answer.parsed.id}"
            ids.add(answer.parsed.id)
        (id,) = ids
        async with asyncio.timeout(SECONDS):
            while (
                made := (await self.api.get_calls_outbound_id(id, client=self.client)).parsed
            ).status != "in-progress":
                assert (made.error, made.ended_at) == (None, None)
                await asyncio.sleep(0.2)
        self.sid = made.call_sid
        return made

    async def act(self, name: str, **body: Any) -> Any:
        """Act on the call."""
        kind = "".join(map(str.title, name.split("_")))
        made = getattr(self.api.models, kind)(**body)
        done = await getattr(self.api, f"post_calls_{name}")(self.sid, client=self.client, body=made)
        assert (done.status_code, done.parsed.call_sid) == (202, self.sid), done.content
        return done.parsed

    async def until(self, condition: Callable[[Any], object]) -> Any:
        """Wait until the call, as the API shows it, is like this."""
        async with asyncio.timeout(SECONDS):
            while True:
                answer = await self.api.get_calls_call(self.sid, client=self.client)
                if answer.status_code == 200 and answer.parsed.record is not None and condition(answer.parsed):
                    return answer.parsed
                await asyncio.sleep(0.2)

    async def heard(self, words: str) -> None:
        """Wait until the far end has heard the agent say that."""
        await self.until(
            lambda shown: any(words in each.heard_text for each in shown.record.turns if each.role == "agent")
        )

    async def drive(self, greeting: str, party: str) -> Any:
        """Do all that can be done to a call, to its transfer, and return it as it is then."""
        await self.heard(greeting)
        await self.act("say", text="The manager is on his way.", interruptible=False)
        await self.heard("The manager is on his way.")
        await self.act("note", text="They are a member.")
        await self.until(lambda shown: any(each.text == "They are a member." for each in shown.record.messages))
        clip = base64.b64encode(wav(seconds=1.5)).decode()
        await self.act("play", wav=clip, text="A word from us.", interruptible=False)
        await self.heard("A word from us.")
        await self.act("send_digits", digits="1w2")
        await self.heard("[keys pressed: 2]")
        assert (await self.act("mute", muted=True)).muted
        assert not (await self.act("mute", muted=False)).muted
        await self.act("interrupt")
        await self.act("transfer", to=party, timeout=30)
        return await self.until(lambda shown: shown.ended_at is not None)
