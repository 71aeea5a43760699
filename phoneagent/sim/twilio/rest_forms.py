"""The forms of Twilio's REST API: the fields it knows, and the values it refuses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import urlsplit

MAX_TWIML_CHARS = 4000
"""The maximum length of TwiML in a form."""

BAD_VALUE = 20001
"""The code of a refused value, used where Twilio's more specific code is unknown."""

_FIELDS: Mapping[str, frozenset[str]] = {
    name: frozenset(fields.split())
    for name, fields in {
        "list": "Beta FriendlyName PhoneNumber Origin PageToken Page PageSize",
        "number": "AccountSid ApiVersion FriendlyName StatusCallback StatusCallbackMethod VoiceApplicationSid "
        "VoiceCallerIdLookup VoiceFallbackMethod VoiceFallbackUrl VoiceMethod VoiceUrl VoiceReceiveMode TrunkSid "
        "SmsApplicationSid SmsFallbackMethod SmsFallbackUrl SmsMethod SmsUrl EmergencyStatus EmergencyAddressSid "
        "IdentitySid AddressSid BundleSid",
        "call": "To From Url Twiml ApplicationSid Method FallbackUrl FallbackMethod StatusCallback "
        "StatusCallbackEvent StatusCallbackMethod SendDigits Timeout TimeLimit Record RecordingChannels "
        "RecordingTrack RecordingStatusCallback RecordingStatusCallbackMethod RecordingStatusCallbackEvent "
        "RecordingConfigurationId Trim CallerId CallReason CallToken MachineDetection MachineDetectionTimeout "
        "MachineDetectionSpeechThreshold MachineDetectionSpeechEndThreshold MachineDetectionSilenceTimeout AsyncAmd "
        "AsyncAmdStatusCallback AsyncAmdStatusCallbackMethod SipAuthUsername SipAuthPassword Byoc Passports "
        "ClientNotificationUrl",
        "calls": "To From ParentCallSid Status StartTime StartTime< StartTime> EndTime EndTime< EndTime> PageToken "
        "Page PageSize",
        "recording": "RecordingStatusCallbackEvent RecordingStatusCallback RecordingStatusCallbackMethod Trim "
        "RecordingChannels RecordingTrack RecordingConfigurationId",
        "recording update": "Status PauseBehavior",
        "recordings": "DateCreated DateCreated< DateCreated> PageToken Page PageSize",
        "call update": "Url Method Status FallbackUrl FallbackMethod StatusCallback StatusCallbackMethod Twiml "
        "TimeLimit",
    }.items()
}

_LEFT_OUT: Mapping[str, frozenset[str]] = {
    "call": frozenset({"Record", "SendDigits"}),
    "call update": frozenset({"FallbackUrl", "StatusCallback", "TimeLimit"}),
}
"""The fields that Twilio knows and the simulated phone does not carry out."""

_CALLEE = re.compile(r"\+[1-9][0-9]{6,14}|client:\S+|sips?:\S+")
_DIGITS = re.compile(r"[0-9A-D#*wW]{1,32}")
_OF_RECORDINGS = {"RecordingChannels": "mono dual", "RecordingTrack": "inbound outbound both"}
_URLS = ("VoiceUrl", "VoiceFallbackUrl", "StatusCallback", "SmsUrl", "SmsFallbackUrl")
_METHODS = frozenset({"GET", "POST"})
_EVENTS = frozenset({"initiated", "ringing", "answered", "completed"})
_RANGES = {
    "Timeout": (1, 600),
    "TimeLimit": (1, 86_400),
    "MachineDetectionTimeout": (3, 59),
    "MachineDetectionSpeechThreshold": (1000, 6000),
    "MachineDetectionSpeechEndThreshold": (500, 5000),
    "MachineDetectionSilenceTimeout": (2000, 10_000),
}
"""The minimum and the maximum of numbers in a call's form."""


class Refused(Exception):
    """The refusal of a request by the API. Without a message, the code's default one is sent."""

    def __init__(self, status: int, code: int, message: str = "") -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"{status} {code}")


def unknown_fields(form: str, names: Iterable[str]) -> list[str]:
    """Return the fields that the form does not have."""
    return sorted(set(names) - _FIELDS[form])


def left_out(form: str, params: Mapping[str, str]) -> list[str]:
    """Return the fields that the simulated phone does not carry out."""
    return sorted(name for name in _LEFT_OUT.get(form, ()) if params.get(name, "false") not in ("", "false"))


def check_number(params: Mapping[str, str]) -> None:
    """Check the update of a phone number.

    Raises:
        Refused: an address or a method is invalid.
    """
    for name, value in params.items():
        if name in _URLS and value and not _is_url(value):
            raise Refused(400, BAD_VALUE, f"{name} is not a valid URL")
    _check_methods(params)


def check_call(params: Mapping[str, str], owned: Collection[str]) -> None:
    """Check the creation of a call from one of the `owned` numbers.

    Raises:
        Refused: the callee, the caller or the instructions are missing or invalid.
    """
    if not params.get("To"):
        raise Refused(400, 21201, "No 'To' number is specified")
    if not _CALLEE.fullmatch(params["To"]):
        raise Refused(400, 21211, "The phone number you are attempting to call is not valid")
    if not params.get("From"):
        raise Refused(400, 21213, "A 'From' phone number is required")
    if params["From"] not in owned and not params["From"].startswith(("client:", "sip:")):
        raise Refused(400, 21210, "The source phone number is not yet verified for your account")
    if not any(params.get(name) for name in ("Url", "Twiml")):
        if params.get("ApplicationSid"):
            raise Refused(400, BAD_VALUE, "an ApplicationSid is more than the simulated phone can carry out; give Url")
        raise Refused(400, 21205, "Url parameter is required")
    _check_instructions(params)
    _check_methods(params)
    _check_placing(params)


def check_callee(to: str, *, permitted: tuple[str, ...], trial: bool) -> None:
    """Check whether the account may call a party: its geo permissions, and the limits of a trial.

    Raises:
        Refused: the account may not call it.
    """
    if to.startswith("+") and not to.startswith(permitted):
        raise Refused(400, 21215, "Account not authorized to call this number. Check your geo permissions")
    if trial:
        raise Refused(400, 21219, "The number is unverified. Trial accounts may only make calls to verified numbers")


def _check_placing(params: Mapping[str, str]) -> None:
    switches = {"MachineDetection": "Enable DetectMessageEnd", "AsyncAmd": "true false", "Record": "true false"}
    _check_values(params, switches | _OF_RECORDINGS)
    for name, (low, high) in _RANGES.items():
        value = params.get(name, str(low))
        if not value.isdecimal() or not low <= int(value) <= high:
            raise Refused(400, BAD_VALUE, f"{name} must be a number from {low} to {high}")
    if unknown := set(params.get("StatusCallbackEvent", "").split()) - _EVENTS:
        raise Refused(400, BAD_VALUE, f"StatusCallbackEvent knows no {sorted(unknown)[0]!r}")
    for name in ("StatusCallback", "AsyncAmdStatusCallback", "FallbackUrl"):
        if params.get(name) and not _is_url(params[name]):
            raise Refused(400, BAD_VALUE, f"{name} is not a valid URL")
    if params.get("SendDigits") and not _DIGITS.fullmatch(params["SendDigits"]):
        raise Refused(400, BAD_VALUE, "SendDigits may have 32 of 0-9, A-D, #, *, w and W")


def check_call_update(params: Mapping[str, str], status: str) -> None:
    """Check a change to a live call with the given status.

    Raises:
        Refused: the new status is invalid, or both Url and Twiml are given.
    """
    wanted = params.get("Status")
    if wanted is not None and wanted not in ("completed", "canceled"):
        raise Refused(400, BAD_VALUE, "Status must be 'completed' or 'canceled'")
    if wanted == "canceled" and status not in ("queued", "ringing"):
        raise Refused(400, BAD_VALUE, "Only a queued or ringing call can be canceled")
    if params.get("Url") and params.get("Twiml"):
        raise Refused(400, BAD_VALUE, "Url and Twiml exclude each other")
    _check_instructions(params)
    _check_methods(params)


def check_recording(params: Mapping[str, str]) -> None:
    """Check the start of a recording.

    Raises:
        Refused: a value is invalid.
    """
    _check_values(params, _OF_RECORDINGS)
    url = params.get("RecordingStatusCallback")
    if url and not _is_url(url):
        raise Refused(400, BAD_VALUE, "RecordingStatusCallback is not a valid URL")
    _check_methods(params)


def check_recording_update(params: Mapping[str, str]) -> None:
    """Check a change to a recording.

    Raises:
        Refused: there is no new status, or a value is invalid.
    """
    if "Status" not in params:
        raise Refused(400, BAD_VALUE, "Status is required")
    _check_values(params, {"Status": "paused in-progress stopped", "PauseBehavior": "skip silence"})


def _check_values(params: Mapping[str, str], allowed: Mapping[str, str]) -> None:
    for name, values in allowed.items():
        if name in params and params[name] not in values.split():
            raise Refused(400, BAD_VALUE, f"{name} must be one of: {', '.join(values.split())}")


def _check_instructions(params: Mapping[str, str]) -> None:
    url = params.get("Url")
    if url and not _is_url(url):
        raise Refused(400, 21205, "Url is not a valid URL")
    if len(params.get("Twiml", "")) > MAX_TWIML_CHARS:
        raise Refused(400, BAD_VALUE, f"Twiml may have {MAX_TWIML_CHARS} characters")


def _check_methods(params: Mapping[str, str]) -> None:
    for name, value in params.items():
        if name.endswith("Method") and value not in _METHODS:
            raise Refused(400, BAD_VALUE, f"{name} must be GET or POST")


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname)
