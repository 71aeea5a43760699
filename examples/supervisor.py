"""A chat-supervisor: the voice answers at once, and a text model thinks. `phoneagent dev examples/supervisor.py`.

The voice model is quick and keeps to small talk. For all else it says a word and asks its supervisor: a text model with
the shop's rules, behind any chat-completions endpoint. Export SUPERVISOR_URL (https://api.openai.com/v1, or
http://127.0.0.1:11434/v1 for Ollama), SUPERVISOR_MODEL, and SUPERVISOR_API_KEY if it needs one; it takes
`pip install openai`. In `.env` they would do nothing: that is for phoneagent's own settings. Without SUPERVISOR_URL the
call's own model thinks, beside the conversation (`call.ask`).
"""

import asyncio
import os
from typing import Annotated

from pydantic import Field

from phoneagent import Agent, Call, PhoneApp, ToolError, hang_up, tool

URL = os.environ.get("SUPERVISOR_URL", "")
MODEL = os.environ.get("SUPERVISOR_MODEL", "gpt-4.1")
SECONDS = 20.0
MAX_CHARS = 1500
MAX_ASKED = 20

RULES = """You supervise an agent on the phone of a bicycle shop. Write what the agent is to say next: one to three
short spoken sentences, without lists or symbols. Decide by these rules only, and if they do not say, offer a call back.
- A return is free within 30 days with the receipt. Worn parts are not taken back.
- A repair costs 45 euros an hour; the first 15 minutes are free. An estimate comes before the work.
- Open Tuesday to Saturday, ten to six."""


async def think(call: Call, request: str) -> str:
    """Return what the supervisor writes."""
    if not URL:
        return await call.ask(RULES, request, timeout=SECONDS)
    from openai import AsyncOpenAI, OpenAIError

    text = ""
    try:
        async with (
            asyncio.timeout(SECONDS),
            AsyncOpenAI(base_url=URL, api_key=os.environ.get("SUPERVISOR_API_KEY", "none"), max_retries=1) as client,
        ):
            asked = [{"role": "system", "content": RULES}, {"role": "user", "content": request}]
            stream = await client.chat.completions.create(model=MODEL, messages=asked, stream=True)  # type: ignore[call-overload]
            async for chunk in stream:
                text += (chunk.choices and chunk.choices[0].delta.content) or ""
                if len(text) > MAX_CHARS:
                    break
    except (OpenAIError, TimeoutError) as error:
        raise ToolError(f"The supervisor does not answer ({type(error).__name__}). Offer a call back.") from None
    if not text.strip():
        raise ToolError("The supervisor said nothing. Offer a call back.")
    return text[:MAX_CHARS].strip()


@tool(filler="One moment, please.", timeout=SECONDS + 5)
async def ask_supervisor(
    call: Call,
    request: Annotated[str, Field(min_length=1, max_length=2000)],
    said: Annotated[str, Field(max_length=2000)] = "",
) -> str:
    """Ask the supervisor what to answer. `request` is what the caller wants now; `said` sums up the talk so far."""
    asked = call.state.setdefault("asked", [])
    if len(asked) >= MAX_ASKED:
        raise ToolError("The supervisor was asked too often in this call. Offer a call back.")
    answer = await think(call, f"The talk so far: {said or 'nothing yet'}\nThe caller now: {request}")
    asked.append(request[:100])  # seen beside the talk
    return answer


app = PhoneApp(
    Agent(
        name="shop",
        instructions=(
            "You answer the phone of a bicycle shop. You may greet, thank, and ask for a name or to repeat something. "
            "For anything else call ask_supervisor, and then say its answer in your own voice. Never answer a question "
            "about the shop by yourself."
        ),
        greeting="Wheel and Chain, good morning!",
        tools=[ask_supervisor, hang_up],
    )
)
