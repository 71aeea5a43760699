"""The weather, and a memory that is seen beside the talk: `phoneagent dev examples/weather.py`.

Both tools write into `call.state`, so the state stands beside the talk on the console (http://127.0.0.1:8000/console),
and survives a restart in the middle of a call. The weather is Open-Meteo's, which needs no key; export WEATHER_URL
and PLACES_URL to name other servers of that kind.
"""

import asyncio
import os
from typing import Annotated, Any

import aiohttp
from pydantic import Field

from phoneagent import Agent, Call, PhoneApp, ToolError, hang_up, tool

PLACES_URL = os.environ.get("PLACES_URL", "https://geocoding-api.open-meteo.com/v1/search")
WEATHER_URL = os.environ.get("WEATHER_URL", "https://api.open-meteo.com/v1/forecast")
SECONDS = 6.0
MAX_FACTS = 20

Name = Annotated[str, Field(min_length=1, max_length=100)]
SKIES = {0: "clear", 1: "mostly clear", 2: "partly cloudy", 3: "overcast", 45: "foggy", 61: "rainy", 71: "snowy"}


async def fetch(http: aiohttp.ClientSession, url: str, **query: Any) -> dict[str, Any]:
    async with http.get(url, params=query) as answer:
        answer.raise_for_status()
        found = await answer.json(content_type=None)
        if not isinstance(found, dict):
            raise ValueError("the answer is no object")
        return found


@tool(filler="Let me look.")
async def get_weather(call: Call, city: Name) -> dict[str, Any]:
    """Tell the present weather in a city."""
    try:
        async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as http:
            places = (await fetch(http, PLACES_URL, name=city, count=1)).get("results") or []
            if not places:
                raise ToolError(f"There is no place called {city}. Ask how it is spelled.")
            place = places[0]
            asked = {"latitude": place["latitude"], "longitude": place["longitude"]}
            current = (await fetch(http, WEATHER_URL, **asked, current="temperature_2m,weather_code"))["current"]
            weather = {
                "city": place["name"],
                "celsius": current["temperature_2m"],
                "sky": SKIES.get(current["weather_code"], "unsettled"),
            }
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        raise ToolError("The weather service does not answer. Offer to try again later.") from None
    call.state["weather"] = weather
    return weather


@tool
async def remember(call: Call, name: Name, value: Annotated[str, Field(min_length=1, max_length=200)]) -> str:
    """Remember a fact for the rest of the call, as a short name and its value: `name` "hometown", `value` "Turku"."""
    memory = call.state.setdefault("memory", {})
    if name not in memory and len(memory) >= MAX_FACTS:
        raise ToolError(f"{MAX_FACTS} facts are remembered already: there is no room for another one.")
    memory[name] = value
    return f"Noted: {name}."


app = PhoneApp(
    Agent(
        name="weather",
        instructions=(
            "You chat about the weather on the phone, in one or two short sentences. Look it up with the tool and "
            "never guess. Remember what the caller tells you about themselves, and use it."
        ),
        greeting="Hello! Which city's weather shall I look up?",
        tools=[get_weather, remember, hang_up],
    )
)
