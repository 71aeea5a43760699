"""The server on the page about webhooks is true: it takes what is signed, once, and nothing else."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from phoneagent.calls.delivery import Message, NotDelivered, Receiver
from phoneagent.sim import serving
from tests.receiver import SECRET
from tests.test_docs import BLOCKS, PYTHON, run_blocks, user

__all__ = ["user"]  # a fixture, which pytest finds here by its name

pytestmark = pytest.mark.anyio


async def test_the_server_of_the_page_takes_what_is_signed(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    run_blocks(PYTHON["webhooks.md"], user)
    (example,) = (block.text.encode() for block in BLOCKS["webhooks.md"] if block.language == "json")
    office = import_module("office")
    async with serving(office.office) as url:
        right, wrong = (Receiver(f"{url}/calls", [each], allow_private=True) for each in (SECRET, "whsec_" + "A" * 40))
        for _ in range(2):
            assert await right.deliver(Message(id="call_ended_CA1", body=example)) == 204
        with pytest.raises(NotDelivered, match="compare WEBHOOK_SECRET"):
            await wrong.deliver(Message(id="call_ended_CA2", body=example))
    assert office.taken == {"call_ended_CA1"}
    assert capsys.readouterr().out.startswith("CA... +15550100001 {'booked': True, 'guests': 4} {'usd': '0.0213'")
