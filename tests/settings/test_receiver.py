"""WEBHOOK_URL and WEBHOOK_SECRET: what each may be, and what is said of what it may not."""

from __future__ import annotations

import base64

import pytest

from phoneagent import ConfigurationError
from phoneagent.settings import load
from phoneagent.settings.receiver import check_url, split_secrets

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
URL = "https://office.example.com/calls?key=of-the-query"


@pytest.mark.parametrize(
    ("url", "allow_private"),
    [(URL, False), ("https://10.0.0.7:8443/hook", False), ("http://office.internal/hook", True)],
)
def test_an_address_that_may_be_one(url: str, *, allow_private: bool) -> None:
    check_url(url, allow_private=allow_private)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("office.example.com/calls", "it must begin with https:// and name a host"),
        ("ftp://office.example.com/", "it must begin with https:// and name a host"),
        ("https:///calls", "it must begin with https:// and name a host"),
        ("https://office.example.com:port/", "it must begin with https:// and name a host"),
        ("http://office.example.com/calls", "with WEBHOOK_ALLOW_PRIVATE=1"),
        ("https://me:of-the-user@office.example.com/", "no user or password"),
        ("https://@office.example.com/", "no user or password"),
        ("https://office.example.com/#part", "no fragment"),
    ],
)
def test_an_address_that_may_not(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        check_url(url, allow_private=False)
    assert "of-the" not in str(raised.value)
    assert "office" not in str(raised.value)


def test_secrets() -> None:
    other = "whsec_" + base64.b64encode(b"t" * 24).decode()
    assert split_secrets(SECRET) == (SECRET,)
    assert split_secrets(f"{SECRET} , {other}") == (SECRET, other)
    for wrong in (
        "",
        "whsec_",
        SECRET.removeprefix("whsec_"),
        "whsec_" + "c2hvcnQ=",
        SECRET + ",",
        "whsec_not base64!",
    ):
        with pytest.raises(ValueError, match="openssl rand -base64 32"):
            split_secrets(wrong)
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        split_secrets("whsec_" + base64.b64encode(b"l" * 65).decode())


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("WEBHOOK_URL", "WEBHOOK_SECRET", "WEBHOOK_ALLOW_PRIVATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    monkeypatch.setenv("REALTIME_URL", "ws://127.0.0.1:9")
    return monkeypatch


def problems() -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        load({"insecure": True})
    return raised.value.problems


def test_both_are_read_and_not_shown(given: pytest.MonkeyPatch) -> None:
    given.setenv("WEBHOOK_URL", URL)
    given.setenv("WEBHOOK_SECRET", SECRET)
    loaded = load({"insecure": True})
    assert loaded.webhook_url is not None
    assert loaded.webhook_url.get_secret_value() == URL
    assert loaded.webhook_secrets == (SECRET,)
    assert "of-the-query" not in repr(loaded)
    assert SECRET not in repr(loaded)


def test_none_of_them_is_needed(given: pytest.MonkeyPatch) -> None:
    assert load({"insecure": True}).webhook_secrets == ()


def test_an_address_without_a_secret_stops_the_start(given: pytest.MonkeyPatch) -> None:
    given.setenv("WEBHOOK_URL", URL)
    (problem,) = problems()
    assert problem.startswith("WEBHOOK_SECRET is missing: webhooks are signed")
    assert 'echo "whsec_$(openssl rand -base64 32)"' in problem
    given.setenv("WEBHOOK_SECRET", "")
    assert problems()[0].startswith("WEBHOOK_SECRET is empty: ")


def test_what_is_malformed_is_named(given: pytest.MonkeyPatch) -> None:
    given.setenv("WEBHOOK_URL", "http://office.example.com/of-the-path")
    given.setenv("WEBHOOK_SECRET", "hunter2-hunter2")
    found = "\n".join(problems())
    assert "WEBHOOK_URL is malformed: it must begin with https://" in found
    assert "WEBHOOK_SECRET is malformed: it must be whsec_" in found
    assert "hunter2" not in found
    assert "of-the-path" not in found
