"""Quotes around a setting, a comment after it, and characters that no key has: the variable is named, not its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent import ConfigurationError
from phoneagent.cli.brain import BrainKeys
from phoneagent.settings import Settings, load, read
from tests.settings.test_settings import GOOD


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**GOOD, "PHONEAGENT_ENV_FILE": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def problem(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    (line,) = raised.value.problems
    assert line.startswith(f"{name} is malformed: ")
    return line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_API_KEY", "“sk-abc”"),
        ("OPENAI_API_KEY", "'sk-abc'"),
        ("PHONEAGENT_API_TOKEN", '"abc"'),
        ("DATABASE_URL", '"sqlite:///abc.db"'),
        ("RECORD_AUDIO", '"abc"'),
        ("OPENAI_MODEL", "„abc“"),
        ("PHONEAGENT_TRANSCRIPTION_MODELS", '"abc, b"'),
        ("ALLOW_CALLERS", '"+15550100001"'),
        ("REALTIME_HEADERS", """'{"X-Team": "abc"}'"""),
        ("PHONEAGENT_PRICES", """'{"abc": {"minute": 1}}'"""),
        ("MAX_CALLS", " '50' "),
    ],
)
def test_quotes_around_a_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    line = problem(monkeypatch, name, value)
    assert line.endswith("it is in quotes, which are part of the value here: remove them")
    assert "abc" not in line
    assert "1555" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_CALLS", "50                                      # at once, in each process, and so on"),
        ("MAX_CALLS", "50 #at once"),
        ("PHONEAGENT_API_TOKEN", "abc            # bearer token for /metrics, /calls and /events"),
        ("OPENAI_BASE_URL", "https://abc.example/v1       # in another region"),
        ("OPENAI_MODEL", "abc\t#b"),
        ("DATABASE_URL", "sqlite:///abc.db               # or postgresql://user:password@host/database"),
        ("RECORD_AUDIO", "abc                            # where agents store the calls"),
        ("PHONEAGENT_PRICES", "abc.json                  # prices that the built-in table lacks"),
        ("ALLOW_CALLERS", "+15550100001,+1555*           # only these"),
        ("PHONEAGENT_TRANSCRIPTION_MODELS", "abc,b       # tried in order"),
    ],
)
def test_a_comment_after_a_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    line = problem(monkeypatch, name, value)
    assert line.endswith("it ends with a comment (#), which is part of the value here: move it to a line of its own")
    assert "abc" not in line
    assert "1555" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "sqlite:///calls #1.db"),
        ("DATABASE_URL", "postgresql://user:p%23#w@host/database"),
        ("RECORD_AUDIO", "calls #1"),
        ("REALTIME_HEADERS", '{"X-Team": "phones # 1", "X-Quote": "\'"}'),
        ("PHONEAGENT_PRICES", '{"a # b": {"minute": 1}}'),
        ("PHONEAGENT_API_TOKEN", "a#b\"c'd"),
        ("PHONEAGENT_API_TOKEN", "'"),
        ("OPENAI_API_KEY", "'sk"),
    ],
)
def test_what_a_value_may_contain(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load()


def test_a_file_has_quotes_and_comments_that_are_no_part_of_its_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MAX_CALLS=50   # at once\nRECORD_AUDIO='calls #1'\n")
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", ".env")
    loaded = load()
    assert loaded.max_calls == 50
    assert loaded.record_audio is not None
    assert loaded.record_audio.get_secret_value() == "calls #1"


KEYS = (
    *("TWILIO_AUTH_TOKEN", "NGROK_AUTHTOKEN", "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"),
    *("AZURE_OPENAI_API_KEY", "REALTIME_API_KEY", "HELICONE_API_KEY", "OUTCOME_API_KEY"),
    "PHONEAGENT_API_TOKEN",
)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("value", ["“abc-abc-abc", "abc\u200babcabc", "abc\nabcabc"])
def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    line = problem(monkeypatch, name, value)
    assert line.endswith("it has a character that no key has, such as a curly quote or a line break: copy it again")
    assert "abc" not in line


def test_the_keys_of_a_brain_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("“abc”", "abc # its key", "ab\u200bc"):
        monkeypatch.setenv("BRAIN_API_KEY", value)
        with pytest.raises(ConfigurationError, match=r"^BRAIN_API_KEY is malformed: it "):
            read(BrainKeys)


def test_settings_in_code_too() -> None:
    with pytest.raises(ValueError, match="it is in quotes") as raised:
        Settings(openai_api_key="'s3cret'", insecure=True)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_call", "did you mean max_calls?"),
        ("openai_apikey", "did you mean openai_api_key?"),
        ("phoneagent_api_tokens", "did you mean phoneagent_api_token?"),
        ("colour", "docs/settings.md lists them all"),
    ],
)
def test_a_name_in_code_that_no_setting_has(name: str, hint: str) -> None:
    for make in (Settings, lambda **given: load(given)):
        with pytest.raises(TypeError) as raised:
            make(**{"insecure": True, name: "s3cret"})
        assert str(raised.value) == f"Settings has no setting {name}: {hint}"


def test_each_name_that_a_setting_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHONEAGENT_API_TOKEN", raising=False)
    for name in ("api_token", "phoneagent_api_token", "PHONEAGENT_API_TOKEN"):
        token = Settings(**{"insecure": True, name: "s3cret"}).api_token
        assert token is not None
        assert token.get_secret_value() == "s3cret"


def test_a_file_may_have_values_of_other_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_CALL=5\nCOLOUR=red\nMAX_CALLS=7\n")
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", ".env")
    monkeypatch.setenv("MAX_CALL", "5")
    assert load().max_calls == 7
