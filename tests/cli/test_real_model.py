"""Which settings and which code make the model a real one, for `chat` and `talk`."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent import Agent, ConfigurationError, Endpoint, PhoneApp, Settings
from phoneagent.cli.real_model import real_model
from tests.cli.conftest import SETTINGS

AGENT = Agent(instructions="x")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    monkeypatch.chdir(tmp_path)


def test_without_any_setting_it_is_simulated() -> None:
    assert real_model(PhoneApp(AGENT)) is None


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({"OPENAI_API_KEY": "k"}, "api.openai.com"),
        ({"REALTIME_PROVIDER": "xai", "REALTIME_API_KEY": "k"}, "api.x.ai"),
        ({"REALTIME_PROVIDER": "localai"}, "127.0.0.1"),
        ({"REALTIME_URL": "ws://far.example"}, "far.example"),
        (
            {
                "AZURE_OPENAI_ENDPOINT": "https://a.openai.azure.com",
                "AZURE_OPENAI_DEPLOYMENT": "phone",
                "AZURE_OPENAI_API_KEY": "k",
            },
            "a.openai.azure.com",
        ),
    ],
)
@pytest.mark.parametrize("account", [True, False])
def test_the_settings_name_the_model_whether_or_not_there_is_an_account(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], host: str, account: bool
) -> None:
    twilio = {name: value for name, value in SETTINGS.items() if name != "OPENAI_API_KEY"}
    for name, value in {**(twilio if account else {}), **environment}.items():
        monkeypatch.setenv(name, value)
    found = real_model(PhoneApp(AGENT))
    assert found is not None
    assert found.host == host


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        (
            {"REALTIME_PROVIDER": "azure"},
            ["AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY"],
        ),
        ({"REALTIME_PROVIDER": "azure", "OPENAI_API_KEY": "k", "AZURE_OPENAI_API_KEY": "k"}, None),
        ({"REALTIME_PROVIDER": "xai"}, ["REALTIME_API_KEY"]),
        ({"REALTIME_PROVIDER": "openai"}, ["OPENAI_API_KEY"]),
        ({"AZURE_OPENAI_ENDPOINT": "https://a.openai.azure.com", "AZURE_OPENAI_API_KEY": "k"}, None),
    ],
)
def test_half_of_a_model_is_not_simulated_but_completed(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], missing: list[str] | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="is missing") as raised:
        real_model(PhoneApp(AGENT))
    if missing is not None:
        assert [line.split()[0] for line in raised.value.problems] == missing
    assert "TWILIO" not in str(raised.value)


def test_code_names_the_model() -> None:
    endpoint = Endpoint.gateway("ws://far.example")
    assert real_model(PhoneApp(AGENT, endpoint=endpoint)) is endpoint
    found = real_model(PhoneApp(AGENT, settings=Settings(insecure=True, realtime_url="ws://other.example")))
    assert found is not None
    assert found.host == "other.example"
