"""docs/scripts.md: every script on the page is read and played, turn by turn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from phoneagent.sim.model.script import Script

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[3] / "docs" / "scripts.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)


def tools_of(script: Script) -> list[dict[str, Any]]:
    calls = [call for turn in script.turns for call in turn.calls]
    names = {call.name for call in calls if call.server is None}
    servers = {call.server for call in calls if call.server is not None}
    functions = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in sorted(names)]
    hosted = [{"type": "mcp", "server_label": label, "server_url": "https://shop.example"} for label in servers]
    return [*functions, *({**each, "require_approval": "never"} for each in hosted)]


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("text", EXAMPLES)
async def test_an_example_plays_as_it_is_written(make_model: Any, dial: Any, text: str) -> None:
    script = Script.parse(text)
    async with make_model(script) as model, dial(model) as client:
        await client.configure(output_modalities=["text"], tools=tools_of(script))
        if any(call.server is not None for turn in script.turns for call in turn.calls):
            await client.until("mcp_list_tools.completed")
        for turn in script.turns:
            assert turn.caller, "a turn of the page has the caller's line"
            await client.add(turn.caller)
            output = (await client.answer())["output"]
            texts = [item["content"][0]["text"] for item in output if item["type"] == "message"]
            called = [item["name"] for item in output if item["type"] in ("function_call", "mcp_call")]
            assert texts == list(turn.say)
            assert called == [call.name for call in turn.calls]
            for item in output:
                if item["type"] == "function_call":
                    returned = {"type": "function_call_output", "call_id": item["call_id"], "output": "7"}
                    await client.send("conversation.item.create", item=returned)
            if any(call.server is None for call in turn.calls) and turn.then:
                said = (await client.answer())["output"][0]["content"][0]["text"]
                outputs = " ".join("7" for _ in turn.calls)
                assert said == turn.then[0].replace("{output}", outputs)
    assert model.violations == []
