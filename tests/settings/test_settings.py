"""Settings: from the environment, everything that is wrong in one go, and no secret in any of it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from phoneagent import ConfigurationError, Endpoint, Price, Settings
from phoneagent.settings import load

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


def problems(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> list[str]:
    for name, value in {**GOOD, **changes}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    return list(raised.value.problems)


def test_everything_good(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.public_url == "https://agent.example.com/phone"
    assert (settings.port, settings.max_call_seconds, settings.openai_model) == (8000, 3600, "gpt-realtime-2.1")
    assert settings.transcription_models == ("gpt-transcribe", "gpt-4o-mini-transcribe")
    assert "secret" not in repr(settings)
    assert "0123456789" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("TWILIO_ACCOUNT_SID", "SK123", "32 hexadecimal"),
        ("TWILIO_AUTH_TOKEN", "s3cr3t", "too short"),
        ("TWILIO_AUTH_TOKEN", "0123456789abcdef,s3cr3t", "too short"),
        ("TWILIO_AUTH_TOKEN", "0123456789abcdef,", "too short"),
        ("PUBLIC_URL", "http://agent.example.com", "https://"),
        ("PUBLIC_URL", "agent.example.com", "https://"),
        ("PUBLIC_URL", "http://localhost:8000", "Twilio cannot reach: `phoneagent dev`"),
        ("LOG_FORMAT", "xml", "it must be text or json"),
        ("AZURE_OPENAI_PREVIEW", "2025", "like 2025-04-01-preview"),
        ("PUBLIC_URL", "https://agent.example.com:8443", "no port"),
        ("PUBLIC_URL", "https://agent.example.com:x", "not a URL"),
        ("PUBLIC_URL", "https://agent.example.com/?a=b", "no port, query"),
        ("REALTIME_URL", "http://localhost:9000", "ws:// or wss://"),
        ("OUTCOME_URL", "ws://localhost:9000", "https:// and name a host"),
        ("OUTCOME_MODEL", "small", "OUTCOME_URL and OUTCOME_MODEL belong together"),
        ("TWILIO_PHONE_NUMBER", "0155 0100001", "E.164"),
        ("PORT", "eighty", "it must be a whole number, like 8000"),
        ("PORT", "70000", "it must be 65535 or less"),
        ("MAX_CALL_SECONDS", "0", "more than 0"),
        ("MAX_CALL_COST", "0", "more than 0, like 2.50"),
        ("MAX_CALL_COST", "much", "it must be a number, like 2.50"),
        ("MAX_CALL_COST", "NaN", "finite"),
        ("PHONEAGENT_PRICES", "{", "not JSON"),
        ("PHONEAGENT_PRICES", "nowhere.json", "neither JSON nor the path"),
        ("PHONEAGENT_PRICES", '{"m": {"audio_in": -1}}', "the price of 'm': audio_in must be a number of dollars"),
        ("PHONEAGENT_PRICES", '{"m": {"audio_in": NaN}}', "the price of 'm': audio_in must be a number of dollars"),
        ("PHONEAGENT_PRICES", '{"m": {"audio": 1}}', "the price of 'm' must be an object of text_in"),
        ("MAX_CALLS_PER_CALLER", "0", "1 or more"),
        ("PHONEAGENT_LOG_PII", "perhaps", "1 or 0"),
        ("PHONEAGENT_LOG_LEVEL", "loud", "debug, info"),
    ],
)
def test_malformed_values_are_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    (problem,) = problems(monkeypatch, **{name: value})
    assert problem.startswith(f"{name} is malformed")
    assert complaint in problem
    assert "s3cr3t" not in problem


@pytest.mark.parametrize("in_file", [False, True], ids=["in the variable", "in a file"])
def test_prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_file: bool) -> None:
    text = '{"gpt-transcribe": {"minute": 0.0001}}'
    (tmp_path / "prices.json").write_text(text)
    settings = loaded(monkeypatch, PHONEAGENT_PRICES="prices.json" if in_file else text, MAX_CALL_COST="2.50")
    assert settings.prices == {"gpt-transcribe": Price(minute=Decimal("0.0001"))}
    assert settings.max_call_cost == Decimal("2.50")
    in_code = Settings(
        **{name.lower(): value for name, value in GOOD.items()},  # type: ignore[arg-type]
        prices={"m": Price(minute=Decimal(1)), "n": {"minute": 2}},  # type: ignore[dict-item]
    )
    assert in_code.prices == {"m": Price(minute=Decimal(1)), "n": Price(minute=Decimal(2))}


def test_another_server_needs_no_openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**GOOD, "REALTIME_URL": "ws://127.0.0.1:9000"}.items():
        if name != "OPENAI_API_KEY":
            monkeypatch.setenv(name, value)
    assert load().openai_api_key is None


@pytest.mark.parametrize(("text", "models"), [("none", ()), ("a, b", ("a", "b")), ("whisper-1", ("whisper-1",))])
def test_transcription_models(monkeypatch: pytest.MonkeyPatch, text: str, models: tuple[str, ...]) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PHONEAGENT_TRANSCRIPTION_MODELS", text)
    assert load().transcription_models == models


def test_settings_in_code() -> None:
    given = {name.lower(): value for name, value in GOOD.items()}
    assert load({**given, "port": 9}).port == 9
    assert Settings(**given).web_concurrency == 1  # type: ignore[arg-type]


def test_the_webhook_s_address_is_not_the_app_s(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, PUBLIC_URL="https://agent.example.com/twilio/voice/")
    assert "leave /twilio/voice off" in problem


def test_a_realtime_server_has_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, REALTIME_URL="ws://")
    assert "name a host" in problem


def test_white_space_around_a_secret_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, f" {value}\n")
    key = load().openai_api_key
    assert key is not None
    assert key.get_secret_value() == "sk-secret"


@pytest.mark.parametrize("blank", [" ", "\n", "\t \r\n"])
def test_a_blank_secret_is_none(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    for name, value in {**GOOD, "PHONEAGENT_API_TOKEN": blank}.items():
        monkeypatch.setenv(name, value)
    assert load().api_token is None
    assert problems(monkeypatch, TWILIO_AUTH_TOKEN=blank)[0].startswith("TWILIO_AUTH_TOKEN is empty")
    with pytest.raises(ConfigurationError, match="API_TOKEN is malformed: it is blank"):
        load({"api_token": blank})


def test_a_variable_of_another_program_is_no_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    foreign = {"API_TOKEN": "theirs", "LOG_LEVEL": "trace", "LOG_PII": "1", "SHOW_TRANSCRIPT": "1", "PRICES": "x"}
    for name, value in {**GOOD, **foreign}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text("API_TOKEN=theirs\nLOG_PII=1\n")
    loaded = load()
    assert (loaded.api_token, loaded.log_level, loaded.prices) == (None, "info", {})
    assert not loaded.log_pii
    assert not loaded.show_transcript


@pytest.mark.parametrize("name", ["MAX_CALL_SECONDS", "IDLE_SECONDS", "CALLS_PER_SECOND", "DRAIN_SECONDS"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_time_is_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    (problem,) = problems(monkeypatch, **{name: value})
    assert problem.startswith(f"{name} is malformed")


def test_names_of_fields_work_in_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert load({"log_level": "debug"}).log_level == "debug"


def test_no_secret_in_an_error_of_pydantic_s() -> None:
    with pytest.raises(ValueError) as raised:
        Settings(twilio_account_sid="AC", twilio_auth_token="s3cret", public_url="https://a.example")
    assert "s3cret" not in str(raised.value)


def test_a_key_in_an_address_is_not_shown() -> None:
    settings = Settings(**{name.lower(): value for name, value in GOOD.items()}, realtime_url="wss://a/?api-key=k3y")
    assert "k3y" not in repr(settings)
    assert "k3y" not in repr(Endpoint.from_settings(settings))


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in {**GOOD, **changes}.items():
        monkeypatch.setenv(name, value)
    return load()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("0123456789", ("0123456789",)), (" the-new-one , the-old-one\n", ("the-new-one", "the-old-one"))],
)
def test_tokens_of_a_rotation(monkeypatch: pytest.MonkeyPatch, text: str, tokens: tuple[str, ...]) -> None:
    settings = loaded(monkeypatch, TWILIO_AUTH_TOKEN=text)
    assert settings.auth_tokens == tokens
    assert not any(token in repr(settings) for token in tokens)


def test_lists_of_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, ALLOW_CALLERS="+15550100001, +1777*,+*", DENY_CALLERS="+15550100009")
    assert settings.allow_callers == ("+15550100001", "+1777*", "+*")
    assert settings.deny_callers == ("+15550100009",)
    assert "+1" not in repr(settings)
    assert loaded(monkeypatch, ALLOW_CALLERS="", DENY_CALLERS="").allow_callers == ()
    in_code = Settings(**{name.lower(): value for name, value in GOOD.items()}, deny_callers=["+1777*"])  # type: ignore[arg-type]
    assert in_code.deny_callers == ("+1777*",)


@pytest.mark.parametrize(
    "text", ["15550177", "+0155501*", "+1555**", "+155*01", "*", "anonymous", ",", "+1555 0177", "+٣*"]
)
@pytest.mark.parametrize("name", ["ALLOW_CALLERS", "DENY_CALLERS"])
def test_a_malformed_list_is_refused_without_its_numbers(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (problem,) = problems(monkeypatch, **{name: f"+15550177001,{text}"})
    assert problem == f"{name} is malformed: entry 2 must be a number like +15550100001 or a prefix like +1555*"
    with pytest.raises(ValueError) as raised:
        Settings(**{name.lower(): value for name, value in GOOD.items()}, **{name.lower(): [text, 17]})
    assert "77" not in str(raised.value)


def test_numbers_are_logged_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not loaded(monkeypatch).log_pii
    assert loaded(monkeypatch, PHONEAGENT_LOG_PII="1").log_pii


@pytest.mark.parametrize("name", ["INSECURE", "insecure", "PHONEAGENT_INSECURE"])
def test_no_environment_opens_the_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / ".env").write_text(f"{name}=1\nOPENAI_API_KEY=k\n")
    monkeypatch.setenv(name, "true")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert len(raised.value.problems) == 3
    assert loaded(monkeypatch).insecure is False


def test_without_security_there_is_nothing_to_set_but_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"^OPENAI_API_KEY is missing"):
        load({"insecure": True})
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    first, second = load({"insecure": True}), load({"insecure": True})
    assert (first.twilio_account_sid, first.public_url) == ("AC" + "0" * 32, "https://localhost")
    assert first.auth_tokens != second.auth_tokens
    assert first.auth_tokens[0] not in repr(first)
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC" + "1" * 32)
    assert load({"insecure": True}).twilio_account_sid == "AC" + "1" * 32
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "short")
    with pytest.raises(ConfigurationError, match="too short"):
        load({"insecure": True})


@pytest.mark.parametrize(("length", "good"), [(8192, True), (8193, False)])
def test_a_header_has_the_same_limit_in_the_environment_and_in_code(length: int, good: bool) -> None:
    def from_environment() -> object:
        values = {name.lower(): value for name, value in GOOD.items()}
        return Settings(**values, realtime_headers=f'{{"X-Team": "{"x" * length}"}}')  # type: ignore[arg-type]

    def from_code() -> object:
        return Endpoint("wss://a.example/v1", {"X-Team": "x" * length})

    for make in (from_environment, from_code):
        if good:
            make()
        else:
            with pytest.raises((ConfigurationError, ValueError), match="printable ASCII"):
                make()
