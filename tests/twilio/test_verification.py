"""Verification of webhooks and media sockets: signatures, bodies, tokens, and what `insecure` takes instead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

import pytest
from starlette.requests import Request
from starlette.websockets import WebSocket
from twilio.request_validator import RequestValidator

from phoneagent import RequestRefused, Settings
from phoneagent.errors import StoreError
from phoneagent.twilio import verification
from phoneagent.twilio.signatures import TOKEN_SECONDS, MediaTokens
from phoneagent.twilio.verification import MAX_BODY_BYTES, MAX_FIELDS, PROXY_HEADERS, Verifier, is_loopback

pytestmark = pytest.mark.anyio

ACCOUNT, CALL = "AC" + "1" * 32, "CA" + "7" * 32
NEW, OLD = "new-auth-token", "old-auth-token"
PUBLIC_URL = "https://agent.example/phone"
PATH = "/twilio/voice"
FORM = {"CallSid": CALL, "AccountSid": ACCOUNT, "From": "+15550100001", "Empty": ""}

Claim = Callable[[str, float], Awaitable[bool]]


def settings(**changes: Any) -> Settings:
    values = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": f"{NEW},{OLD}", "public_url": PUBLIC_URL}
    return Settings(_env_file=None, endpoint_in_code=True, **values | changes)  # type: ignore[call-arg]


def insecure() -> Verifier:
    return Verifier(Settings(_env_file=None, endpoint_in_code=True, insecure=True), None)  # type: ignore[call-arg]


def sign(url: str, params: dict[str, str] | None = None, token: str = NEW) -> str:
    return str(RequestValidator(token).compute_signature(url, params or {}))


def scope(kind: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {
        "type": kind,
        "scheme": "http" if kind == "http" else "ws",
        "server": ("10.0.0.7", 8000),
        "client": ("10.0.0.1", 50000),
        "path": PATH,
        "query_string": b"",
        "headers": raw,
        **more,
    }


class Body:
    """A request's body, a chunk at a time; `end` says what comes when there is no further one."""

    def __init__(self, *chunks: bytes, end: str = "done") -> None:
        self.chunks, self.end = list(chunks), end

    async def receive(self) -> dict[str, Any]:
        if self.chunks:
            chunk = self.chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks) or self.end != "done"}
        if self.end == "silence":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


def webhook(
    form: dict[str, str] | bytes = FORM,
    *,
    signature: str | None = None,
    query: str = "",
    method: str = "POST",
    body: Body | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Request:
    given = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", **(headers or {})}
    if signature is not None:
        given["X-Twilio-Signature"] = signature
    content = form if isinstance(form, bytes) else urlencode(form).encode()
    return Request(
        scope("http", given, method=method, query_string=query.encode(), **more), (body or Body(content)).receive
    )


def signed(form: dict[str, str] = FORM, token: str = NEW, **options: Any) -> Request:
    return webhook(form, signature=sign(PUBLIC_URL + PATH, form, token), **options)


# --- addresses ---


def test_addresses_come_from_public_url_alone() -> None:
    verifier = Verifier(settings(), None)
    assert verifier.url("/a") == "https://agent.example/phone/a"
    assert verifier.url("/a", scheme="wss", query={"c": "a b", "b": 1}) == "wss://agent.example/phone/a?b=1&c=a%20b"
    address = verifier.media_url("/m/", CALL, resumes=True)
    assert address.startswith("wss://agent.example/phone/m/")
    ticket = MediaTokens([NEW]).redeem(address.rpartition("/")[2], 0)
    assert (ticket.call_sid, ticket.resumes) == (CALL, True)


def test_without_tls_the_socket_s_address_has_none_either() -> None:
    plain = settings().model_copy(update={"public_url": "http://127.0.0.1:8000"})
    verifier = Verifier(plain, None)
    assert (verifier.url("/a"), verifier.url("/a", scheme="wss")) == (
        "http://127.0.0.1:8000/a",
        "ws://127.0.0.1:8000/a",
    )


# --- webhooks ---


@pytest.mark.parametrize("token", [NEW, OLD])
async def test_a_signed_webhook_gives_its_parameters(token: str) -> None:
    params = await Verifier(settings(), None).webhook(signed(token=token), PATH)
    assert dict(params) == FORM


async def test_a_webhook_that_a_shared_key_has_signed() -> None:
    verifier, url = Verifier(settings(), None), PUBLIC_URL + PATH
    signature = str(RequestValidator(OLD).compute_signature(url, FORM, "HMAC_SHA256"))
    how, unknown = (
        {"X-Twilio-Webhooks-Signature-Settings": f"key=webhooks_sharedkey_01, algorithm={algorithm}"}
        for algorithm in ("HMAC_SHA256", "NONE")
    )
    assert dict(await verifier.webhook(webhook(signature=signature, headers=how), PATH)) == FORM
    with pytest.raises(RequestRefused):
        await verifier.webhook(webhook(signature=signature), PATH)
    with pytest.raises(RequestRefused, match="unknown way"):
        await verifier.webhook(signed(headers=unknown), PATH)
    elsewhere = str(RequestValidator(OLD).compute_signature("https://agent.example" + PATH, FORM, "HMAC_SHA256"))
    assert await verifier.misdirected(webhook(signature=elsewhere, headers=how), PATH) is not None


async def test_a_body_in_pieces_is_one_body() -> None:
    content = urlencode(FORM).encode()
    request = signed(body=Body(content[:7], b"", content[7:]))
    assert dict(await Verifier(settings(), None).webhook(request, PATH)) == FORM


async def test_the_query_is_signed_as_it_was_sent_and_the_body_goes_before_it() -> None:
    query = "state=a%20b&From=%2B1"
    request = webhook(signature=sign(f"{PUBLIC_URL}{PATH}?{query}", FORM), query=query)
    params = await Verifier(settings(), None).webhook(request, PATH)
    assert (params["state"], params["From"]) == ("a b", "+15550100001")


async def test_a_get_has_its_parameters_in_the_query_only() -> None:
    query = urlencode(FORM)
    signature = sign(f"{PUBLIC_URL}{PATH}?{query}")
    request = webhook(b"Extra=1", signature=signature, query=query, method="GET")
    assert dict(await Verifier(settings(), None).webhook(request, PATH)) == FORM


@pytest.mark.parametrize("host", ["agent.example", "Agent.Example", "AGENT.example."])
@pytest.mark.parametrize("signed_host", ["agent.example", "agent.example:443", "host of PUBLIC_URL", "host of Host"])
async def test_the_host_is_the_same_in_upper_and_in_lower_case(host: str, signed_host: str) -> None:
    verifier = Verifier(settings(public_url=f"https://{host}/phone"), None)
    assert verifier.url("/a") == "https://agent.example/phone/a"
    of_host = "aGENT.example"
    written = {"host of PUBLIC_URL": host, "host of Host": of_host}.get(signed_host, signed_host)
    signature = sign(f"https://{written}/phone{PATH}", FORM)
    request = webhook(signature=signature, headers={"Host": of_host, "X-Forwarded-Host": "evil.example"})
    assert dict(await verifier.webhook(request, PATH)) == FORM


SIP = FORM | {"From": "sip:o'hara+1@192.0.2.7:5060", "Name": "José & Söhne"}


@pytest.mark.parametrize("left", ["", ":@", "':@", "!$'()*,/:;?@"])
@pytest.mark.parametrize("quoting", [quote, quote_plus])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_query_is_verified_in_the_spelling_that_twilio_signed(left: str, quoting: Any, method: str) -> None:
    query = urlencode(SIP if method == "GET" else {"b": "a:b c", "a": "@"}, quote_via=quoting, safe=left)
    signature = sign(f"{PUBLIC_URL}{PATH}?{query}", {} if method == "GET" else FORM)
    sent = urlencode(parse_qsl(query, keep_blank_values=True))
    if method == "POST":
        sent = "&".join(sorted(sent.split("&")))
    params = await Verifier(settings(), None).webhook(
        webhook(b"" if method == "GET" else FORM, signature=signature, query=sent, method=method), PATH
    )
    assert dict(params) == (SIP if method == "GET" else {"a": "@", "b": "a:b c", **FORM})


async def test_a_query_is_read_to_its_end() -> None:
    query = urlencode({"CallSid": CALL, "AccountSid": ACCOUNT}) + "&a=1%232&b=é"
    request = webhook(b"", signature=sign(f"{PUBLIC_URL}{PATH}?{query}"), query=query.replace("%23", "#"), method="GET")
    params = await Verifier(settings(), None).webhook(request, PATH)
    assert (params["a"], params["b"]) == ("1#2", "é")


@pytest.mark.parametrize(
    ("signed_query", "sent"),
    [
        ("a=1%262&b=3", "a=1&2=&b=3"),
        ("Q=+1555", "Q=%2B1555"),
        ("a=1&a=2", "a=2&a=1"),
        ("a=1", "a=1&b="),
        ("a=1", "A=1"),
        ("a=%2541", "a=A"),
        ("a=1", "a=1#2"),
    ],
)
async def test_a_query_that_means_something_else_is_refused(signed_query: str, sent: str) -> None:
    form = urlencode({"CallSid": CALL, "AccountSid": ACCOUNT})
    signature = sign(f"{PUBLIC_URL}{PATH}?{form}&{signed_query}")
    request = webhook(b"", signature=signature, query=f"{form}&{sent}", method="GET")
    with pytest.raises(RequestRefused, match="wrong signature"):
        await Verifier(settings(), None).webhook(request, PATH)


async def test_an_address_beside_public_url_is_refused_and_explained() -> None:
    signature = sign(f"https://agent.example{PATH}", FORM)
    with pytest.raises(RequestRefused) as refused:
        await Verifier(settings(), None).webhook(webhook(signature=signature), PATH)
    assert str(refused.value) == (
        "wrong signature for https://agent.example/phone/twilio/voice: "
        "Twilio signed https://agent.example/twilio/voice; set PUBLIC_URL=https://agent.example, or have it request https://agent.example/phone/twilio/voice"
    )


@pytest.mark.parametrize(
    ("path", "signed_url", "said"),
    [
        (f"/phone{PATH}", PUBLIC_URL + PATH, "strip the path of PUBLIC_URL, or mount the app there"),
        (f"/a/b{PATH}", f"https://agent.example/a/b{PATH}", "set PUBLIC_URL=https://agent.example/a/b,"),
        (f"{PATH}/", f"{PUBLIC_URL}{PATH}/", "so have it request https://agent.example/phone/twilio/voice"),
        (f"/phone{PATH}", "https://agent.example/other", None),
    ],
)
async def test_a_webhook_that_came_to_another_path_is_explained_if_it_is_twilio_s(
    path: str, signed_url: str, said: str | None
) -> None:
    verifier = Verifier(settings(), None)
    why = await verifier.misdirected(webhook(signature=sign(signed_url, FORM), path=path), PATH)
    assert why is None if said is None else (why is not None and said in why)
    assert await verifier.misdirected(webhook(path=path), PATH) is None
    assert await insecure().misdirected(webhook(path=path), PATH) is None


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "bm90IGl0",
        sign(PUBLIC_URL + PATH, FORM, token="another-token"),
        sign(PUBLIC_URL + PATH, {**FORM, "From": "+1"}),
        sign("https://evil.example/twilio/voice", FORM),
        sign(f"{PUBLIC_URL}/twilio/status", FORM),
    ],
)
async def test_a_forged_webhook_is_refused(signature: str | None) -> None:
    with pytest.raises(RequestRefused, match="signature"):
        await Verifier(settings(), None).webhook(webhook(signature=signature), PATH)


async def test_a_webhook_of_another_account_is_refused() -> None:
    for form in ({**FORM, "AccountSid": "AC" + "9" * 32}, {"CallSid": CALL}):
        with pytest.raises(RequestRefused, match="TWILIO_ACCOUNT_SID"):
            await Verifier(settings(), None).webhook(signed(form), PATH)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe=1",
        "&".join(f"a{n}=1" for n in range(MAX_FIELDS + 1)).encode(),
        b"CallStatus=ringing&%26From%3D%2B15550100009=",
    ],
    ids=["bytes", "fields", "a name that hides a parameter"],
)
async def test_an_unreadable_webhook_is_refused(content: bytes) -> None:
    with pytest.raises(RequestRefused, match="cannot be read"):
        await Verifier(settings(), None).webhook(webhook(content), PATH)


async def test_an_endless_body_is_not_read_to_its_end() -> None:
    body = Body(*[b"x" * 1024] * 1000)
    with pytest.raises(RequestRefused, match=f"more than {MAX_BODY_BYTES} bytes"):
        await Verifier(settings(), None).webhook(webhook(body=body), PATH)
    assert len(body.chunks) == 1000 - MAX_BODY_BYTES // 1024 - 1


async def test_a_body_that_never_comes_to_its_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "BODY_SECONDS", 0.01)
    with pytest.raises(RequestRefused, match=r"0\.01 s"):
        await Verifier(settings(), None).webhook(signed(body=Body(b"CallSid=", end="silence")), PATH)


async def test_a_sender_that_leaves_half_way_is_refused_as_unsigned() -> None:
    with pytest.raises(RequestRefused, match="wrong signature"):
        await Verifier(settings(), None).webhook(signed(body=Body(b"CallSid=", end="gone")), PATH)


# --- media sockets ---


class Claims:
    """Names that only one process may have."""

    def __init__(self, answer: bool | Exception | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, float]] = []

    async def claim(self, name: str, seconds: float) -> bool:
        self.asked.append((name, seconds))
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer)


async def nothing(*_: Any) -> Any:
    raise AssertionError("a socket is verified before anything is read or written")


def media_socket(address: str, signature: str | None = None) -> WebSocket:
    signature = sign(address) if signature is None else signature
    token = address.rpartition("/")[2]
    headers = {"Host": "10.0.0.7", "X-Twilio-Signature": signature}
    return WebSocket(scope("websocket", headers, path_params={"token": token}), nothing, nothing)


@pytest.mark.parametrize("resumes", [False, True])
async def test_a_media_socket_is_taken_once(resumes: bool) -> None:
    verifier = Verifier(settings(), None)
    address = verifier.media_url("/m/", CALL, resumes=resumes)
    ticket = await verifier.socket(media_socket(address), "/m/")
    assert (ticket.call_sid, ticket.resumes) == (CALL, resumes)
    with pytest.raises(RequestRefused, match="twice"):
        await verifier.socket(media_socket(address), "/m/")


async def test_a_forged_socket_neither_spends_the_token_nor_asks_the_database() -> None:
    claims = Claims(True)
    verifier = Verifier(settings(), claims.claim)
    address = verifier.media_url("/m/", CALL)
    for signature in ("", sign(address, token="another-token"), sign(address.replace("wss:", "https:"))):
        with pytest.raises(RequestRefused, match="signature"):
            await verifier.socket(media_socket(address, signature), "/m/")
    forged = address[:-1] + ("A" if address[-1] != "A" else "B")
    with pytest.raises(RequestRefused, match="not one of ours"):
        await verifier.socket(media_socket(forged), "/m/")
    assert claims.asked == []
    assert (await verifier.socket(media_socket(address), "/m/")).call_sid == CALL


async def test_a_token_is_claimed_for_as_long_as_it_is_good() -> None:
    claims = Claims(True)
    verifier = Verifier(settings(), claims.claim)
    ticket = await verifier.socket(media_socket(verifier.media_url("/m/", CALL)), "/m/")
    assert claims.asked == [(f"media token {ticket.nonce}", TOKEN_SECONDS)]


async def test_a_token_that_another_process_has_taken_is_refused() -> None:
    verifier = Verifier(settings(), Claims(False).claim)
    with pytest.raises(RequestRefused, match="twice"):
        await verifier.socket(media_socket(verifier.media_url("/m/", CALL)), "/m/")


@pytest.mark.parametrize("answer", [StoreError("gone"), None], ids=["fails", "hangs"])
async def test_a_database_that_is_away_stops_no_call(
    answer: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verification, "CLAIM_SECONDS", 0.01)
    verifier = Verifier(settings(), Claims(answer).claim)
    address = verifier.media_url("/m/", CALL)
    assert (await verifier.socket(media_socket(address), "/m/")).call_sid == CALL
    (record,) = caplog.records
    assert (record.levelname, record.call_sid) == ("WARNING", CALL)  # type: ignore[attr-defined]
    with pytest.raises(RequestRefused, match="twice"):  # this process still knows
        await verifier.socket(media_socket(address), "/m/")


# --- without signatures ---


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
async def test_unsigned_requests_of_this_machine_are_taken_whatever_their_account(host: str, client: str) -> None:
    form = {**FORM, "AccountSid": "AC" + "9" * 32}
    body = Body(urlencode(form).encode())
    request = Request(scope("http", {"Host": host}, method="POST", client=(client, 5)), body.receive)
    assert dict(await insecure().webhook(request, PATH)) == form


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"Host": "localhost"}, ("192.0.2.1", 5)),
        ({"Host": "localhost"}, None),
        ({"Host": "localhost"}, ("not an address", 5)),
        ({"Host": "rebound.example"}, ("127.0.0.1", 5)),
        ({"Host": "192.0.2.1"}, ("127.0.0.1", 5)),
        ({"Host": "localhost", "Origin": "https://evil.example"}, ("127.0.0.1", 5)),
        ({"Host": "localhost", "Origin": "null"}, ("127.0.0.1", 5)),
        ({"Host": "a{b.example:8000"}, ("127.0.0.1", 5)),  # a name that leads here, which Starlette cannot read
        *(({"Host": "127.0.0.1:8000", header: "203.0.113.9"}, ("127.0.0.1", 5)) for header in PROXY_HEADERS),
    ],
)
async def test_unsigned_requests_from_elsewhere_or_from_a_browser_are_refused(
    headers: dict[str, str], client: tuple[str, int] | None
) -> None:
    verifier = insecure()
    with pytest.raises(RequestRefused, match="unsigned"):
        await verifier.webhook(Request(scope("http", headers, method="POST", client=client), Body().receive), PATH)
    token = verifier.media_url("/m/", CALL).rpartition("/")[2]
    socket = WebSocket(scope("websocket", headers, client=client, path_params={"token": token}), nothing, nothing)
    with pytest.raises(RequestRefused, match="unsigned"):
        await verifier.socket(socket, "/m/")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback(host: str | None, expected: bool) -> None:
    assert is_loopback(host) is expected
