"""The check of the server at WEBHOOK_URL: it must accept a signed test webhook."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime

from phoneagent.calls.delivery import Message, NotDelivered, Receiver
from phoneagent.doctor.checks import Check, failed, ok
from phoneagent.settings import Settings

NAME = "receiver"


async def check_receiver(settings: Settings) -> Check | None:
    """Deliver a webhook of type `webhook.test`; return None if there is no receiver."""
    receiver = Receiver.from_settings(settings)
    if receiver is None:
        return None
    body = {"type": "webhook.test", "timestamp": datetime.now(UTC).isoformat(), "data": {}}
    try:
        status = await receiver.deliver(Message(id=f"test_{secrets.token_hex(16)}", body=json.dumps(body).encode()))
    except NotDelivered as error:
        return failed(NAME, str(error))
    return ok(NAME, f"{receiver.host} takes a signed webhook (HTTP {status})")
