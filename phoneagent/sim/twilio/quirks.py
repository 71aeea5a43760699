"""What Twilio does that no document settles: the assumptions of the simulated phone, for a test to vary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quirks:
    """A server should get along with any of these.

    Attributes:
        retry_waits_s: what passes before each retry of a request, in seconds; the last one holds for all further ones.
            Twilio does not tell; these spread five retries over five seconds.
        action_after_hang_up: when the caller hangs up, the `action` of the Connect or Dial that was running is
            requested all the same, with CallStatus completed.
        action_after_update: when the REST API gives a call new TwiML, the `action` of the Connect or Dial that was
            running is requested first, and its answer ignored. Seen at Twilio for Dial; for Connect nobody tells.
        callbacks_twice: every status callback is delivered twice, with the same idempotency token.
        callbacks_reversed: status callbacks are held back until the call is over, and come last first.
    """

    retry_waits_seconds: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    action_after_hang_up: bool = False
    action_after_update: bool = False
    callbacks_twice: bool = False
    callbacks_reversed: bool = False
