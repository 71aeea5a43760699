"""A guide to the solar system whose tools move a picture: `phoneagent dev examples/solar_system.py`.

Open http://127.0.0.1:8000/solar beside the call. The page draws what the agent shows. It reads the app's own stream of
events (`/events`), on which the output of each tool comes as it returns. On this machine the stream is open; elsewhere
sign in at /console first. The files of the page are in `solar_system/`, next to this one.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from phoneagent import Agent, Call, PhoneApp, hang_up, tool

FOLDER = Path(__file__).parent / "solar_system"
FILES = {
    "": ((FOLDER / "page.html").read_text("utf-8"), "text/html"),
    "solar.js": ((FOLDER / "solar.js").read_text("utf-8"), "text/javascript"),
    "solar.css": ((FOLDER / "solar.css").read_text("utf-8"), "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

Planet = Literal["mercury", "venus", "earth", "mars", "jupiter", "saturn", "uranus", "neptune"]
MOONS: dict[str, int] = {
    "mercury": 0,
    "venus": 0,
    "earth": 1,
    "mars": 2,
    "jupiter": 97,
    "saturn": 274,
    "uranus": 29,
    "neptune": 16,
}


def sky(call: Call) -> dict[str, Any]:
    """Return what the picture shows in this call."""
    state: dict[str, Any] = call.state.setdefault("sky", {"planet": None, "orbits": True, "speed": 1.0})
    return state


@tool
async def show_planet(call: Call, planet: Planet) -> dict[str, Any]:
    """Move the picture to a planet."""
    sky(call)["planet"] = planet
    return {**sky(call), "moons": MOONS[planet]}


@tool
async def show_all(call: Call, orbits: bool = True) -> dict[str, Any]:
    """Show the whole solar system, with or without the orbits."""
    sky(call).update(planet=None, orbits=orbits)
    return dict(sky(call))


@tool
async def set_speed(call: Call, speed: Annotated[float, Field(ge=0, le=20)]) -> dict[str, Any]:
    """Let the planets move faster or slower: 1 is the usual speed, 0 stops them."""
    sky(call)["speed"] = speed
    return dict(sky(call))


app = PhoneApp(
    Agent(
        name="guide",
        instructions=(
            "You guide a caller through the solar system, who sees a picture of it while you talk. Show what you talk "
            "about, and say one or two lively sentences about it."
        ),
        greeting="Welcome aboard! Where shall we fly first?",
        tools=[show_planet, show_all, set_speed, hang_up],
    )
)


async def show_page(request: Request) -> Response:
    found = FILES.get(request.path_params.get("name", ""))
    return Response(status_code=404) if found is None else Response(found[0], media_type=found[1], headers=HEADERS)


app.add_route("/solar", show_page)
app.add_route("/solar/{name}", show_page)
