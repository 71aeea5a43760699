"""The app that is measured: the smallest possible agent, with everything on that is on by default.

One route is added, which returns how many tasks and objects the process has: see `benchmarks.many`.
"""

import asyncio
import gc

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from phoneagent import Agent, PhoneApp


async def count(request: Request) -> JSONResponse:
    """Return the counts that show a leak."""
    gc.collect()
    return JSONResponse({"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())})


app = PhoneApp(Agent(instructions="You answer the phone of a benchmark.", greeting="Hello, this is a benchmark."))
app.router.routes.append(Route("/benchmark/count", count))
