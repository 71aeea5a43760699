"""Reading settings: from the environment and a file, and everything that is wrong in one go."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent import ConfigurationError
from phoneagent.settings import load, misspelled_names

GOOD = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "0123456789abcdef",
    "PUBLIC_URL": "https://agent.example.com/phone/",
    "OPENAI_API_KEY": "sk-secret",
}
NAMES = [
    *GOOD,
    "INSECURE",
    "ALLOW_CALLERS",
    "DENY_CALLERS",
    "PHONEAGENT_LOG_PII",
    "OPENAI_MODEL",
    "REALTIME_URL",
    "REALTIME_API_KEY",
    "PORT",
    "WEB_CONCURRENCY",
    "MAX_CALL_SECONDS",
    "MAX_CALL_COST",
    "PHONEAGENT_PRICES",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*NAMES, "PHONEAGENT_LOG_LEVEL", "PHONEAGENT_TRANSCRIPTION_MODELS", "PHONEAGENT_ENV_FILE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_dotenv_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in GOOD.items()) + "PORT=1\n")
    monkeypatch.setenv("PORT", "2")
    assert load().port == 2
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    with pytest.raises(ConfigurationError):
        load()


def test_everything_missing_is_named_in_one_go() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert [problem.split(" ")[0] for problem in raised.value.problems] == [
        "TWILIO_ACCOUNT_SID",
        "TWILIO_AUTH_TOKEN",
        "PUBLIC_URL",
        "OPENAI_API_KEY",
    ]


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    lines = "".join(f"{name}={value}\r\n" for name, value in GOOD.items())
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert load().twilio_account_sid == GOOD["TWILIO_ACCOUNT_SID"]


def test_files_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"NAME=caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"^\.env cannot be read: save it as UTF-8$"):
        load()
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "nowhere.env")
    with pytest.raises(ConfigurationError, match=r"names nowhere\.env, which does not exist"):
        load()


def test_a_missing_setting_says_which_file_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PHONEAGENT_ENV_FILE", raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PUBLIC_URL")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert str(raised.value).endswith(f"({tmp_path / '.env'} does not exist)")
    (tmp_path / ".env").write_text("PUBLIC_URL=\n")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert str(raised.value).startswith("PUBLIC_URL is empty: set it to the URL")
    assert str(raised.value).endswith(f"({tmp_path / '.env'} was read)")


@pytest.mark.parametrize("in_file", [False, True])
def test_a_misspelled_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_file: bool) -> None:
    monkeypatch.delenv("PHONEAGENT_ENV_FILE", raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert misspelled_names() == []
    monkeypatch.delenv("TWILIO_AUTH_TOKEN")
    given = {"TWILIO_AUTHTOKEN": "0123456789abcdef", "MAX_CALL_SECOND": "5"}
    if in_file:
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    else:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="TWILIO_AUTH_TOKEN is missing, but TWILIO_AUTHTOKEN is set: correct"):
        load()
    assert "MAX_CALL_SECOND is set, but nothing reads it: did you mean MAX_CALL_SECONDS?" in misspelled_names()


def test_a_bad_line_of_the_file_is_told_once_without_its_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [*(f"{name}={value}" for name, value in GOOD.items()), "", "# a comment", "SOME_KEY: sk-x"]
    (tmp_path / ".env").write_text("\n".join(lines))
    load()
    load()
    assert misspelled_names() is not None
    assert [record.getMessage() for record in caplog.records] == [".env, line 7: write NAME=value"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("TWILIO_ACCOUNT_SID", "AC-wrong"), ("REALTIME_URL", "https://me:secret@host"), ("DENY_CALLERS", "15550109999")],
)
def test_a_value_that_may_be_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for each, good in GOOD.items():
        monkeypatch.setenv(each, good)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert value not in str(raised.value)
