"""TwiML, the XML documents that answer Twilio's webhooks."""

from __future__ import annotations

from collections.abc import Mapping

from twilio.twiml.voice_response import Connect, Dial, Gather, Start, Stream, VoiceResponse

from phoneagent.bridge.steps import Transfer

RETRY = "#rc=5&rp=ct,rt,5xx&ct=2000&rt=5000"
"""The fragment of a webhook's URL, which is neither sent nor signed. It makes Twilio retry up to five times within its
15 s, for example while a server restarts, and wait 2 s for a connection and 5 s for an answer."""

ACCEPT_KEY = "1"
"""The key with which the other party of a transfer takes the call."""

ASK = f"Press {ACCEPT_KEY} to take the call."

KEY_SECONDS = 8
"""How long to wait for that key after each request for it."""

APOLOGY = "We are sorry, something went wrong on our side."


def turn_away(fallback_number: str | None, *, reason: str = "busy", caller_id: str | None = None) -> str:
    """Return TwiML for a call that is turned away: a forward, or else "busy" or "rejected", which costs nothing.

    A forward shows `caller_id`, or else the caller's number.
    """
    response = VoiceResponse()
    if fallback_number is None:
        response.reject(reason=reason)
    else:
        response.dial(fallback_number, caller_id=caller_id)
    return str(response)


def fall_back(fallback_number: str | None, *, apologize: bool = True, caller_id: str | None = None) -> str:
    """Return TwiML for an answered call that cannot go on: an apology, then a forward, or else a hang-up.

    A forward shows `caller_id`, or else the caller's number.
    """
    response = VoiceResponse()
    if apologize:
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
    """Return TwiML for a call that is over. Twilio requires an answer, but ignores it."""
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
    stream = _stream(url, parameters, status_callback)
    connect = Connect() if action is None else Connect(action=action + RETRY, method="POST")
    connect.append(stream)
    response.append(connect)
    return str(response)


def dial(step: Transfer, *, action: str, caller_id: str | None = None, screen: str | None = None) -> str:
    """Return TwiML that connects a call to the party of a transfer. Twilio requests `action` when that is over.

    The caller hears ringing until both are connected. `screen` is the URL of what the party hears before.
    """
    response = VoiceResponse()
    options = {} if step.conference else {"timeout": step.timeout, "caller_id": caller_id, "answer_on_bridge": True}
    dialed = Dial(action=action + RETRY, method="POST", **options)
    whisper = {} if screen is None else {"url": screen + RETRY, "method": "POST"}
    if step.conference:
        _join(dialed, step.conference)
    elif step.to.startswith("client:"):
        dialed.client(step.to.removeprefix("client:"), **whisper)
    elif step.to.startswith(("sip:", "sips:")):
        dialed.sip(step.to, **whisper)
    else:
        dialed.number(step.to, **whisper)
    response.append(dialed)
    return str(response)


def ask_party(words: str, *, ask: str, language: str, action: str, times: int = 2) -> str:
    """Return TwiML that asks the other party of a transfer to press a key, and requests `action` with it.

    The party hears `words`, then `ask`, in that `language`; "" for both means English.

    Without a key press, the call to the party ends: a machine presses none.
    """
    response = VoiceResponse()
    gather = Gather(action=action + RETRY, method="POST", num_digits=1, timeout=KEY_SECONDS)
    for _ in range(times):
        gather.say(f"{words} {ask or ASK}".strip(), language=language or None)
        gather.pause(length=2)
    response.append(gather)
    response.hangup()
    return str(response)


def wait_in(conference: str) -> str:
    """Return TwiML that has the other party of a transfer wait for the caller."""
    response = VoiceResponse()
    dialed = Dial()
    _join(dialed, conference)
    response.append(dialed)
    return str(response)


def _join(dialed: Dial, conference: str) -> None:
    """Have a call join a conference of two, which ends when either leaves."""
    dialed.conference(conference, beep=False, start_conference_on_enter=True, end_conference_on_exit=True)


def say_and_hang_up(words: str) -> str:
    """Return TwiML that says something and ends the call."""
    response = VoiceResponse()
    response.say(words)
    response.hangup()
    return str(response)


def redirect(url: str) -> str:
    """Return TwiML that requests `url`."""
    response = VoiceResponse()
    response.redirect(url + RETRY, method="POST")
    return str(response)


def transcribe_and_dial(
    url: str,
    parameters: Mapping[str, str],
    party: str,
    *,
    caller_id: str | None,
    announcement: str | None,
    time_limit_seconds: int,
    status_callback: str | None = None,
) -> str:
    """Return TwiML that sends both sides of a call to a media stream at `url` (wss), and connects it to `party`.

    The stream runs in parallel: if it breaks, the two keep talking. `party` is a number, or a "sip:" or "client:"
    address, which sees `caller_id`, or else the caller's number. When the other person hangs up, so does Twilio.
    """
    response = VoiceResponse()
    if announcement is not None:
        response.say(announcement)
    start = Start()
    start.append(_stream(url, parameters, status_callback, track="both_tracks"))
    response.append(start)
    dial = Dial(caller_id=caller_id, time_limit=time_limit_seconds)
    kind, _, address = party.partition(":")
    if kind in ("sip", "sips"):
        dial.sip(party)
    elif kind == "client":
        dial.client(address)
    else:
        dial.number(party)
    response.append(dial)
    return str(response)


def _stream(url: str, parameters: Mapping[str, str], status_callback: str | None, **attributes: str) -> Stream:
    callback = {} if status_callback is None else {"status_callback": status_callback}
    stream = Stream(url=url, **attributes, **callback)
    for name, value in parameters.items():
        if value and len(name) + len(value) < 500:  # Twilio's limit for one parameter
            stream.parameter(name=name, value=value)
    return stream
