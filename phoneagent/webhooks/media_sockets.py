"""Twilio's media sockets: each is verified, and then a call runs in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket

from phoneagent import telemetry
from phoneagent.agent.call import Call
from phoneagent.bridge.history import Past
from phoneagent.calls.calls import Calls
from phoneagent.calls.journal import CallJournal
from phoneagent.calls.state import restore
from phoneagent.errors import ProtocolError, RequestRefused, StoreError
from phoneagent.twilio import MEDIA_PATH
from phoneagent.twilio.parameters import call_of_stream
from phoneagent.twilio.signatures import Ticket
from phoneagent.twilio.socket import TwilioSocket, read_start
from phoneagent.twilio.verification import Verifier

if TYPE_CHECKING:
    from phoneagent.calls.outbound import Outbound

log = logging.getLogger("phoneagent.webhooks")


class MediaSockets:
    """Runs a call in each media socket that Twilio opens; `account_sid` is the account of the calls, None for any."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        calls: Calls,
        journal: CallJournal | None,
        metrics: telemetry.Metrics,
        account_sid: str | None,
        outbound: Outbound | None = None,
    ) -> None:
        self._outbound = outbound
        self._verifier = verifier
        self._calls = calls
        self._journal = journal
        self._metrics = metrics
        self._account_sid = account_sid

    async def run(self, websocket: WebSocket) -> None:
        """Run the call of a media socket; return when nothing of it is left."""
        await self.run_verified(websocket, self._verifier.socket(websocket, MEDIA_PATH))

    async def run_verified(self, websocket: WebSocket, verified: Awaitable[Ticket]) -> None:
        """Run the call of a media socket whose ticket is `verified`, which raises RequestRefused without one."""
        with self._calls.counted():
            try:
                ticket = await verified
            except RequestRefused as refused:
                self._metrics.refused("socket")
                log.warning("media socket refused: %s", telemetry.hidden(str(refused)))
                await websocket.close()  # before accept: HTTP 403
                return
            await websocket.accept()
            await self._run(TwilioSocket(websocket), ticket)

    async def _run(self, socket: TwilioSocket, ticket: Ticket) -> None:
        call_sid = ticket.call_sid
        number = self._calls.arrived(call_sid)
        try:
            start = await read_start(socket, call_sid, self._account_sid)
            call = call_of_stream(call_sid, start.parameters)
            past = await self._past(ticket, call)
            if self._outbound is not None:
                await self._outbound.attach(call)
            if not self._calls.is_newest(call_sid, number):
                raise ProtocolError("the call has a newer media socket")
            await self._calls.run(call, start, socket, past)
        except (ProtocolError, RequestRefused, StoreError) as error:
            log.warning("media socket closed: %s", str(error), extra={"call_sid": call_sid})
            await socket.close()
        except asyncio.CancelledError:  # the server stops and cancels what is left; this call is over
            log.warning("cut off: the process ends", extra={"call_sid": call_sid})
        finally:
            self._calls.left(call_sid, number)

    async def _past(self, ticket: Ticket, call: Call) -> Past | None:
        """Return the past of a call that continues in this socket, None for a call that begins.

        Raises:
            ProtocolError, RequestRefused, StoreError: the call cannot continue.
        """
        pending = self._calls.supersede(ticket.call_sid)
        if pending is None and not ticket.resumes:
            return None
        if self._journal is None:
            raise ProtocolError("the call cannot continue because it was not recorded: give the app a store")
        past = await self._journal.past(ticket.call_sid, pending)
        if past is not None:
            restore(call, past.state)
            call.started_at = past.started_at or call.started_at
        return past
