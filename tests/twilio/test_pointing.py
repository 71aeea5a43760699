"""The webhook that a number gets. What keeps a number from being pointed: `cli/test_diversion.py` and the console's."""

from __future__ import annotations

import pytest

from phoneagent.twilio.pointing import keeping_fallback, webhook_of
from phoneagent.twilio.rest import Webhook

VOICEMAIL = "https://handler.twilio.com/twiml/EH1"


def test_the_webhook_of_an_address() -> None:
    webhook = webhook_of("https://mine.ngrok.app/base")
    assert webhook.voice_url == "https://mine.ngrok.app/base/twilio/voice#rc=3&rp=ct,5xx"
    assert webhook.voice_fallback_url == webhook.voice_url  # asked again, not somewhere else
    assert webhook.status_callback == "https://mine.ngrok.app/base/twilio/status#rc=3&rp=ct,5xx"
    assert {webhook.voice_method, webhook.voice_fallback_method, webhook.status_callback_method} == {"POST"}


@pytest.mark.parametrize(
    ("voice_url", "fallback_url", "kept"),
    [
        ("https://old.example/voice", VOICEMAIL, True),
        ("", VOICEMAIL, True),
        ("https://old.example/voice#rc=2", "https://old.example/voice", False),
        ("https://old.example/voice", "", False),
    ],
)
def test_a_fallback_of_its_own_stays(voice_url: str, fallback_url: str, kept: bool) -> None:
    ours = webhook_of("https://mine.example")
    before = Webhook(voice_url=voice_url, voice_fallback_url=fallback_url, voice_fallback_method="GET")
    made = keeping_fallback(ours, before)
    assert made.voice_url == ours.voice_url
    expected = (VOICEMAIL, "GET") if kept else (ours.voice_fallback_url, "POST")
    assert (made.voice_fallback_url, made.voice_fallback_method) == expected
    assert keeping_fallback(ours, made) == made, "a second time changes nothing"
