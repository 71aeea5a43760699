"""Which server a session is opened at, from the environment or from code, and what its headers tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from phoneagent import Call, ConfigurationError, Endpoint, Settings
from phoneagent.model.endpoint import realtime_url
from phoneagent.protocol.providers import PROVIDERS, Provider
from phoneagent.protocol.realtime import Dialect
from phoneagent.settings import load

TWILIO = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "0123456789",
    "PUBLIC_URL": "https://a.example",
}
OPENAI = {"OPENAI_API_KEY": "sk-openai"}
AZURE = {
    "AZURE_OPENAI_ENDPOINT": "https://phones.openai.azure.com/",
    "AZURE_OPENAI_DEPLOYMENT": "talk",
    "AZURE_OPENAI_API_KEY": "azure-key",
}
HELICONE = {"HELICONE_API_KEY": "sk-helicone"}
NUMBER = "+15550100001"
HELICONE_HOST = "wss://api.helicone.ai/v1/gateway/oai/realtime"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "PHONEAGENT_TRANSCRIPTION_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def environment(monkeypatch: pytest.MonkeyPatch, *groups: dict[str, str], **more: str) -> Settings:
    for group in (TWILIO, *groups, more):
        for name, value in group.items():
            monkeypatch.setenv(name, value)
    return load()


def problems(monkeypatch: pytest.MonkeyPatch, *groups: dict[str, str], **more: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        environment(monkeypatch, *groups, **more)
    return list(raised.value.problems)


def call(caller: str | None = NUMBER, **changes: Any) -> Call:
    given = {"sid": "CA" + "1" * 32, "direction": "inbound", **changes}
    return Call(caller=caller, called="+15550100002", started_at=datetime.now(UTC), **given)


def query(endpoint: Endpoint) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(endpoint.url).query).items()}


# --- from the environment ---


def test_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, OPENAI))
    assert far.url == "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"
    assert far.headers == {"Authorization": "Bearer sk-openai"}
    assert far.transcription_models == ("gpt-transcribe", "gpt-4o-mini-transcribe")


def test_openai_with_all_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj_1", "OPENAI_BASE_URL": "https://eu.api.openai.com/v1"}
    far = Endpoint.from_settings(environment(monkeypatch, OPENAI, more, OPENAI_MODEL="gpt-realtime-2.1-mini"))
    assert far.url == "wss://eu.api.openai.com/v1/realtime?model=gpt-realtime-2.1-mini"
    assert far.headers["OpenAI-Organization"] == "org-1"
    assert far.headers["OpenAI-Project"] == "proj_1"
    assert far.headers_for(call()).keys() == {"OpenAI-Safety-Identifier"}


def test_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, AZURE, OPENAI))
    assert far.url == "wss://phones.openai.azure.com/openai/v1/realtime?model=talk"
    assert far.headers == {"api-key": "azure-key"}
    assert far.transcription_models == ("whisper-1",)
    assert far.headers_for(call()) == {}


def test_azure_s_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = environment(monkeypatch, AZURE, AZURE_OPENAI_PREVIEW="2025-04-01-preview")
    far = Endpoint.from_settings(settings)
    assert urlsplit(far.url).path == "/openai/realtime"
    assert query(far) == {"api-version": "2025-04-01-preview", "deployment": "talk"}


def test_a_chosen_recognizer_is_kept_at_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = environment(monkeypatch, AZURE, PHONEAGENT_TRANSCRIPTION_MODELS="my-transcribe")
    assert Endpoint.from_settings(settings).transcription_models == ("my-transcribe",)


@pytest.mark.parametrize("path", ["", "/", "/openai", "/openai/v1/"])
def test_azure_s_address_in_any_form(path: str) -> None:
    far = Endpoint.azure(f"https://phones.openai.azure.com{path}", "talk now", api_key="k")
    assert far.url == "wss://phones.openai.azure.com/openai/v1/realtime?model=talk+now"


def test_azure_behind_a_path() -> None:
    far = Endpoint.azure("https://gate.example/ai", "talk", api_key="k")
    assert far.url == "wss://gate.example/ai/openai/v1/realtime?model=talk"


def test_helicone_to_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, OPENAI, HELICONE))
    assert far.url == f"{HELICONE_HOST}?model=gpt-realtime-2.1"
    assert far.headers["Authorization"] == "Bearer sk-openai"
    assert far.headers["Helicone-Auth"] == "Bearer sk-helicone"
    about = far.headers_for(call())
    assert about["Helicone-Session-Id"] == call().sid
    assert about["Helicone-Property-Direction"] == "inbound"
    assert about["Helicone-User-Id"] == about["OpenAI-Safety-Identifier"]


@pytest.mark.parametrize("preview", [{}, {"AZURE_OPENAI_PREVIEW": "2025-04-01-preview"}])
def test_helicone_to_azure(monkeypatch: pytest.MonkeyPatch, preview: dict[str, str]) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, AZURE, HELICONE, preview))
    assert urlsplit(far.url).hostname == "api.helicone.ai"
    assert query(far) == {"resource": "phones", "deployment": "talk"}
    assert far.headers["Authorization"] == "Bearer azure-key"
    assert "api-key" not in far.headers


def test_any_other_server_comes_first_and_gets_no_key_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = environment(monkeypatch, OPENAI, AZURE, HELICONE, REALTIME_URL="wss://gate.example/v1")
    far = Endpoint.from_settings(settings)
    assert (far.url, dict(far.headers)) == ("wss://gate.example/v1/realtime?model=gpt-realtime-2.1", {})
    own = Endpoint.from_settings(environment(monkeypatch, REALTIME_API_KEY="own"))
    assert own.headers == {"Authorization": "Bearer own"}


@pytest.mark.parametrize(("word", "dialect"), [("auto", None), ("ga", Dialect.GA), ("beta", Dialect.BETA)])
def test_a_dialect_can_be_forced(monkeypatch: pytest.MonkeyPatch, word: str, dialect: Dialect | None) -> None:
    settings = environment(monkeypatch, REALTIME_URL="ws://gate.example", REALTIME_DIALECT=word)
    far = Endpoint.from_settings(settings)
    assert far.dialect is dialect
    assert ("OpenAI-Beta" in far.headers) == (dialect is Dialect.BETA)


def test_more_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"X-Team": "phones", "X-Call": "call={call_sid}", "authorization": "Basic x"}'
    far = Endpoint.from_settings(environment(monkeypatch, OPENAI, REALTIME_HEADERS=text))
    assert far.headers == {"X-Team": "phones", "authorization": "Basic x"}
    assert far.headers_for(call())["X-Call"] == f"call={call().sid}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("X-Team: phones", "a JSON object"),
        ('["X-Team"]', "a JSON object"),
        ('{"X-Team": 1}', "a JSON object"),
        ('{"X Team": "s3cret"}', "cannot be a header"),
        ('{"X-Team": "s3cret\\r\\nX: y"}', "cannot be a header"),
        ('{"Sec-WebSocket-Protocol": "s3cret"}', "belongs to the handshake"),
        ('{"Host": "s3cret"}', "belongs to the handshake"),
    ],
)
def test_headers_that_cannot_be(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    (problem,) = problems(monkeypatch, OPENAI, REALTIME_HEADERS=value)
    assert problem.startswith("REALTIME_HEADERS is malformed")
    assert words in problem
    assert "s3cret" not in problem


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each.split()[0] for each in problems(monkeypatch)] == ["OPENAI_API_KEY"]
    half = problems(monkeypatch, AZURE_OPENAI_ENDPOINT="https://phones.openai.azure.com")
    assert [each.split()[0] for each in half] == ["AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY"]
    (malformed,) = problems(monkeypatch, AZURE_OPENAI_ENDPOINT="phones")
    assert malformed == "AZURE_OPENAI_ENDPOINT is malformed: it must begin with https:// and name a host"


def test_helicone_alone_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each.split()[0] for each in problems(monkeypatch, HELICONE)] == ["OPENAI_API_KEY"]


def test_an_api_version_that_is_no_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, AZURE, AZURE_OPENAI_PREVIEW="2024-10-21")
    assert problem.startswith("AZURE_OPENAI_PREVIEW is malformed")


def test_code_may_bring_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TWILIO.items():
        monkeypatch.setenv(name, value)
    settings = load({"endpoint_in_code": True})
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY is missing"):
        Endpoint.from_settings(settings)


# --- in code ---


def test_azure_needs_one_way_to_get_in() -> None:
    with pytest.raises(ConfigurationError, match="either api_key or token"):
        Endpoint.azure("https://phones.openai.azure.com", "talk")
    with pytest.raises(ConfigurationError, match="either api_key or token"):
        Endpoint.azure("https://phones.openai.azure.com", "talk", api_key="k", token=lambda: "t")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Endpoint("http://127.0.0.1"), "URL is malformed: write it like wss://HOST/v1"),
        (lambda: Endpoint("wss://:443/v1"), "URL is malformed"),
        (lambda: Endpoint("wss://[/v1"), "URL is malformed"),
        (lambda: Endpoint("wss://a.example/v1 ?key=s3cret"), "without spaces"),
        (lambda: Endpoint.gateway("gateway.example/v1", api_key="s3cret"), "URL is malformed"),
        (lambda: Endpoint.azure("phones.openai.azure.com", "talk", api_key="s3cret"), "URL is malformed"),
        (
            lambda: Endpoint.azure("https://phones.openai.azure.com", "", api_key="s3cret"),
            "azure.com has an empty model name",
        ),
        (lambda: Endpoint.openai("s3cret", ""), r"api\.openai\.com has an empty model name: set one"),
        (lambda: Endpoint.openai(""), "'Authorization' for api.openai.com contains no key: set one"),
        (lambda: Endpoint.openai(cast("str", None)), "contains no key"),
        (lambda: Endpoint.openai("s3cret\n"), "'Authorization' .* cannot be sent: use printable ASCII"),
        (lambda: Endpoint.openai("“s3cret”"), "cannot be sent: use printable ASCII"),
        (
            lambda: Endpoint.azure("https://phones.openai.azure.com", "talk", api_key=""),
            "'api-key' .* contains no key",
        ),
        (lambda: Endpoint("ws://a", {"X Key": "s3cret"}), "'X Key' for a cannot be sent"),
        (lambda: Endpoint("ws://a", call_headers={"X": "{caller}\r\ns3cret"}), "'X' for a cannot be sent"),
    ],
)
def test_what_no_session_could_be_opened_with_is_refused_at_once(make: Callable[[], Endpoint], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        make()
    assert "s3cret" not in str(raised.value)
    assert len(raised.value.problems) == 1


def test_a_key_with_a_stray_line_break_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, OPENAI_API_KEY="sk-open\nai")
    assert problem.startswith("OPENAI_API_KEY is malformed: it has a character that no key has")
    with pytest.raises(ConfigurationError, match=r"'Authorization' for .* cannot be sent"):
        Endpoint.openai("sk-open\nai")


def test_helicone_takes_no_token() -> None:
    far = Endpoint.azure("https://phones.openai.azure.com", "talk", token=lambda: "t")
    with pytest.raises(ConfigurationError, match="use api_key"):
        far.through_helicone("sk-helicone")


def test_no_secret_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = environment(monkeypatch, OPENAI, AZURE, HELICONE, REALTIME_HEADERS='{"X-Key": "k3y"}')
    shown = repr(settings) + repr(Endpoint.from_settings(settings))
    for secret in ("sk-openai", "azure-key", "sk-helicone", "k3y", "0123456789"):
        assert secret not in shown


# --- servers that are known ---

LOCAL = {"litellm": 4000, "localai": 8080, "speaches": 8000, "speech-to-speech": 8765, "vllm": 8000}


@pytest.mark.parametrize("name", LOCAL)
def test_a_known_server_on_this_machine_needs_nothing_but_its_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, REALTIME_PROVIDER=name))
    known = PROVIDERS[name]
    assert far.url == f"ws://127.0.0.1:{LOCAL[name]}/v1/realtime?model=gpt-realtime-2.1"
    assert far.headers == {}
    assert (far.provider, far.audio, far.dialect) == (known, known.audio, known.dialect)
    assert far.address() == far.url


def test_xai(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, REALTIME_PROVIDER="xai", REALTIME_API_KEY="own"))
    assert far.url == "wss://api.x.ai/v1/realtime?model=grok-voice-latest"
    assert far.headers == {"Authorization": "Bearer own"}
    assert (far.audio, far.dialect, far.transcription_models) == ("pcmu", Dialect.GA, ())


def test_inworld(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = environment(monkeypatch, REALTIME_PROVIDER="inworld", REALTIME_API_KEY="b3du", OPENAI_MODEL="a/b")
    far = Endpoint.from_settings(settings)
    assert far.url == "wss://api.inworld.ai/api/v1/realtime/session?protocol=realtime"
    assert far.headers == {"Authorization": "Basic b3du"}
    assert far.session == {"model": "a/b"}
    addresses = {far.address() for _ in range(3)}
    assert len(addresses) == 3
    assert all(address.startswith(f"{far.url}&key=") for address in addresses)


def test_the_address_of_a_known_server_may_have_a_query_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert query(Endpoint.preset("inworld", api_key="k", url="wss://a/s?protocol=mine")) == {"protocol": "mine"}
    keyed = dataclasses.replace(PROVIDERS["inworld"], query={})
    monkeypatch.setitem(cast("dict[str, Provider]", PROVIDERS), "inworld", keyed)
    assert Endpoint.preset("inworld", api_key="k").address().startswith(f"{keyed.url}?key=")


def test_the_settings_replace_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"REALTIME_URL": "ws://127.0.0.1:9000", "REALTIME_AUDIO": "pcmu", "REALTIME_DIALECT": "ga"}
    heard = {"PHONEAGENT_TRANSCRIPTION_MODELS": "own"}
    far = Endpoint.from_settings(environment(monkeypatch, heard, REALTIME_PROVIDER="speaches", **more))
    assert far.url == "ws://127.0.0.1:9000/v1/realtime?model=gpt-realtime-2.1"
    assert (far.audio, far.dialect, far.transcription_models) == ("pcmu", Dialect.GA, ("own",))


@pytest.mark.parametrize("name", ["openai", "azure", "helicone"])
def test_a_provider_of_own_settings_may_be_named_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, OPENAI, AZURE, HELICONE, REALTIME_PROVIDER=name))
    hosts = {"openai": "api.openai.com", "azure": "phones.openai.azure.com", "helicone": "api.helicone.ai"}
    assert far.host == hosts[name]
    elsewhere = environment(monkeypatch, REALTIME_URL="ws://127.0.0.1:9000", REALTIME_API_KEY="own")
    assert Endpoint.from_settings(elsewhere).headers == {
        PROVIDERS[name].key_header: "own" if name == "azure" else "Bearer own"
    }


def test_the_audio_of_any_server_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Endpoint.from_settings(environment(monkeypatch, OPENAI)).audio is None
    assert Endpoint.from_settings(environment(monkeypatch, REALTIME_AUDIO="pcm16")).audio == "pcm16"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("xai", ["REALTIME_API_KEY"]),
        ("azure", ["AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY"]),
        ("openai", ["OPENAI_API_KEY"]),
        ("helicone", ["OPENAI_API_KEY", "HELICONE_API_KEY"]),
        ("opennai", ["REALTIME_PROVIDER"]),
    ],
)
def test_what_a_provider_lacks_is_named(monkeypatch: pytest.MonkeyPatch, name: str, missing: list[str]) -> None:
    assert [each.split()[0] for each in problems(monkeypatch, REALTIME_PROVIDER=name)] == missing


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Endpoint.preset("grok", api_key="s3cret"), "'grok' is not known: use one of openai, azure"),
        (lambda: Endpoint.preset("azure", api_key="s3cret"), "'azure' has no address of its own: give a url"),
        (lambda: Endpoint.preset("xai"), "'xai' needs a key: give an api_key"),
    ],
)
def test_a_preset_that_cannot_be_opened(make: Callable[[], Endpoint], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_a_preset_may_have_a_token_provider_or_options() -> None:
    far = Endpoint.preset("xai", token=lambda: "t", transcription_models=("own",))
    assert (far.headers, far.transcription_models) == ({}, ("own",))


# --- what a session tells of its call ---


def test_the_caller_has_a_pseudonym_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, OPENAI))
    again = Endpoint.from_settings(load())
    elsewhere = Endpoint.from_settings(environment(monkeypatch, TWILIO_AUTH_TOKEN="another-token"))
    name = far.headers_for(call())["OpenAI-Safety-Identifier"]
    assert name == again.headers_for(call(sid="CA" + "2" * 32))["OpenAI-Safety-Identifier"]
    assert name != far.headers_for(call("+15550100003"))["OpenAI-Safety-Identifier"]
    assert name != elsewhere.headers_for(call())["OpenAI-Safety-Identifier"]
    assert name == far.headers_for(call(f"sip:{NUMBER}@pbx.example:5061"))["OpenAI-Safety-Identifier"]
    assert NUMBER.strip("+") not in str(far.headers_for(call()))
    assert len(name) == 32


@pytest.mark.parametrize(
    "nobody", [None, "", "anonymous", "Restricted", "+266696687", "sip:anonymous@anonymous.invalid"]
)
def test_withheld_numbers_are_not_one_person(monkeypatch: pytest.MonkeyPatch, nobody: str | None) -> None:
    far = Endpoint.from_settings(environment(monkeypatch, OPENAI, HELICONE))
    assert far.headers_for(call(nobody)).keys() == {"Helicone-Session-Id", "Helicone-Property-Direction"}


def test_without_a_key_there_are_no_pseudonyms() -> None:
    assert Endpoint.openai("sk-openai").headers_for(call()) == {}
    assert Endpoint.openai("sk-openai", pseudonym_key=b"secret").headers_for(call()) != {}


def test_a_fact_that_is_no_header_is_left_out() -> None:
    far = Endpoint.gateway("ws://a", call_headers={"X-Way": "{direction}", "X-Call": "{call_sid}"})
    assert far.headers_for(call(direction="in\r\nX: y")).keys() == {"X-Call"}


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("wss://api.openai.com/v1/realtime", "wss://api.openai.com/v1/realtime?model=m"),
        ("https://eu.api.openai.com/v1", "wss://eu.api.openai.com/v1/realtime?model=m"),
        ("http://127.0.0.1:9000", "ws://127.0.0.1:9000/v1/realtime?model=m"),
        ("ws://host", "ws://host/v1/realtime?model=m"),
        ("ws://host/v1/", "ws://host/v1/realtime?model=m"),
        ("ws://host/openai", "ws://host/openai/v1/realtime?model=m"),
        ("ws://host/openai/v1", "ws://host/openai/v1/realtime?model=m"),
        ("ws://host/realtime?model=other&a=b", "ws://host/realtime?model=other&a=b"),
        ("ws://host/realtime?deployment=d", "ws://host/realtime?deployment=d"),
    ],
)
def test_addresses_are_completed(base: str, expected: str) -> None:
    assert realtime_url(base, "m") == expected


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        (Endpoint.openai("k", "m"), {"intent": "transcription"}),
        (Endpoint.azure("https://a.example", "d", api_key="k"), {"intent": "transcription"}),
        (Endpoint.gateway("wss://a.example/v1?x=1", "m"), {"intent": "transcription", "x": "1"}),
    ],
    ids=["openai", "azure", "gateway"],
)
def test_a_session_that_only_transcribes_names_no_model(endpoint: Endpoint, asked: dict[str, str]) -> None:
    only = endpoint.for_transcription()
    assert query(only) == asked
    assert (only.headers, only.host) == (endpoint.headers, endpoint.host)
