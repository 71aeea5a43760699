"""Token figures of responses."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.sim.model.scripts import SCRIPT

pytestmark = pytest.mark.anyio


async def test_usage_grows_with_the_conversation(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        first = (await client.until("response.done"))["response"]["usage"]
        said_ms = len(client.audio()) / 8
        await client.speak()
        second = (await client.until("response.done"))["response"]["usage"]

    assert first["input_token_details"]["audio_tokens"] == 9
    assert first["output_token_details"]["audio_tokens"] == math.ceil(said_ms / 50)
    assert first["input_token_details"]["cached_tokens"] == 0
    details = second["input_token_details"]
    assert details["audio_tokens"] == pytest.approx(9 + 9 + said_ms / 50, abs=2)
    assert details["cached_tokens"] == first["input_tokens"]
    assert second["total_tokens"] == second["input_tokens"] + second["output_tokens"]
