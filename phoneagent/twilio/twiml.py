"""TwiML, the XML documents that answer Twilio's webhooks."""

from __future__ import annotations

from collections.abc import Mapping

from twilio.twiml.voice_response import Connect, VoiceResponse

RETRY = "#rc=5&rp=ct,rt,5xx&ct=2000&rt=5000"
"""The fragment of a webhook's URL, which is neither sent nor signed. It makes Twilio retry up to five times within its
15 s, for example while a server restarts, and wait 2 s for a connection and 5 s for an answer."""

APOLOGY = "We are sorry, something went wrong on our side."


def turn_away(fallback_number: str | None, *, reason: str = "busy", caller_id: str | None = None) -> str:
    """Return TwiML for a call that is not taken: a forward, or else "busy" or "rejected", which costs nothing.

    A forward shows `caller_id`, or else the caller's number.
    """
    response = VoiceResponse()
    if fallback_number is None:
        response.reject(reason=reason)
    else:
        response.dial(fallback_number, caller_id=caller_id)
    return str(response)


def fall_back(fallback_number: str | None, *, apologise: bool = True, caller_id: str | None = None) -> str:
    """Return TwiML for an answered call that cannot go on: an apology, then a forward, or else a hang-up.

    A forward shows `caller_id`, or else the caller's number.
    """
    response = VoiceResponse()
    if apologise:
        response.say(APOLOGY)
    if fallback_number is None:
        response.hangup()
    else:
        response.dial(fallback_number, caller_id=caller_id)
    return str(response)


def hang_up() -> str:
    """Return TwiML that ends the call."""
    response = VoiceResponse()
    response.hangup()
    return str(response)


def nothing() -> str:
    """Return TwiML for a call that is over. Twilio requires an answer, and ignores it."""
    return str(VoiceResponse())


def ask_again(url: str) -> str:
    """Return TwiML that requests `url` after a second, when another process may answer."""
    response = VoiceResponse()
    response.pause(length=1)
    response.redirect(url + RETRY, method="POST")
    return str(response)


def connect_stream(
    url: str, parameters: Mapping[str, str], *, action: str | None = None, status_callback: str | None = None
) -> str:
    """Return TwiML that connects the call to a media stream at `url` (wss), with parameters for its `start`.

    Twilio requests `action` once our side of the stream is gone, and hangs up without one. It calls `status_callback`
    when the stream begins, ends or fails.
    """
    response = VoiceResponse()
    callback = {} if status_callback is None else {"status_callback": status_callback}
    stream = Connect().stream(url=url, **callback)
    for name, value in parameters.items():
        if value and len(name) + len(value) < 500:  # Twilio's limit for one parameter
            stream.parameter(name=name, value=value)
    connect = Connect() if action is None else Connect(action=action + RETRY, method="POST")
    connect.append(stream)
    response.append(connect)
    return str(response)
