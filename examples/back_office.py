"""The other side of a webhook: a server of yours that gets each call once it is over, here those of the voicemail.

    export WEBHOOK_SECRET="whsec_$(openssl rand -base64 32)"
    uvicorn examples.back_office:app --port 9100
    WEBHOOK_URL=http://127.0.0.1:9100/calls WEBHOOK_ALLOW_PRIVATE=1 phoneagent serve examples/voicemail.py

It verifies the signature, takes each call once, and writes down who called and what they said.
"""

import os

from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

messages: dict[str, str] = {}
"""The messages by the id of their webhook. In your app this is a table with a unique column."""


async def take(request: Request) -> Response:
    """Take a webhook: answer first, and work afterwards."""
    try:
        event = Webhook(os.environ["WEBHOOK_SECRET"]).verify(await request.body(), dict(request.headers))
    except WebhookVerificationError:
        return Response(status_code=401)
    if event["type"] == "call.ended":  # `phoneagent doctor` sends a webhook.test
        messages.setdefault(request.headers["webhook-id"], described(event["data"]))
    return Response(status_code=204)


def described(data: dict) -> str:  # type: ignore[type-arg]
    """Return what to do about a call, in a line."""
    said = " ".join(turn["text"] for turn in data["call"]["turns"] if turn["role"] == "caller")
    noted = data["outcome"] or {}
    who = noted.get("name") or data["call"]["caller"] or "unknown"
    return f"{'URGENT ' if noted.get('urgent') else ''}{who}: {noted.get('wish') or said or 'said nothing'}"


app = Starlette(routes=[Route("/calls", take, methods=["POST"])])
