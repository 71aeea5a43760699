"""The app that is measured: an agent as small as one can be, and everything on that an app has without asking.

One route is added, which tells how many tasks and objects the process has: see `benchmarks.many`.
"""

import asyncio
import gc

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from phoneagent import Agent, PhoneApp


async def count(request: Request) -> JSONResponse:
    """Return what a process may have too much of."""
    gc.collect()
    return JSONResponse({"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())})


app = PhoneApp(Agent(instructions="You answer the phone of a benchmark.", greeting="Hello, this is a benchmark."))
app.router.routes.append(Route("/benchmark/count", count))
