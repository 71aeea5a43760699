"""Undocumented behavior of Twilio: the assumptions of the simulated phone, for a test to vary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quirks:
    """A server should work with any of these.

    Attributes:
        retry_waits_seconds: the waits before the retries of a request; the last one applies to all further retries.
            Twilio does not document them; these spread five retries over five seconds.
        action_after_hang_up: when the caller hangs up, the `action` of the Connect or Dial that was running is
            requested anyway, with CallStatus completed.
        action_after_update: when the REST API gives a call new TwiML, the `action` of the Connect or Dial that was
            running is requested first, and its answer ignored. Observed at Twilio for Dial; for Connect it is unknown.
        callbacks_twice: every status callback is delivered twice, with the same idempotency token.
        callbacks_reversed: status callbacks are held back until the call is over, and then come in reverse order.
    """

    retry_waits_seconds: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    action_after_hang_up: bool = False
    action_after_update: bool = False
    callbacks_twice: bool = False
    callbacks_reversed: bool = False
