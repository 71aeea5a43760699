"""Delivering a webhook: how it is signed, what each answer means, and the addresses that are never connected to."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import socket
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from phoneagent import Settings
from phoneagent.calls import delivery
from phoneagent.calls.delivery import MAX_RETRY_AFTER_SECONDS, Message, NotDelivered, Receiver, reach, seconds_of
from tests.receiver import HANG, SECRET, TAKEN, answer, receiving

pytestmark = pytest.mark.anyio

OLD = "whsec_" + base64.b64encode(b"the secret before this one").decode()
MESSAGE = Message(id="call_ended_CA1", body='{"type": "call.ended", "data": {"who": "Zoë"}}'.encode())


def receiver_at(url: str, **options: Any) -> Receiver:
    return Receiver(url, [SECRET], **{"allow_private": True, **options})


async def refusal(url: str, **options: Any) -> NotDelivered:
    with pytest.raises(NotDelivered) as raised:
        await receiver_at(url, **options).deliver(MESSAGE)
    assert "of-the-query" not in str(raised.value), "a URL's query may be a secret"
    assert "/hook" not in str(raised.value), "and so may its path"
    return raised.value


# --- the signature ----------------------------------------------------------------------------------------------------


def test_the_signature_is_that_of_the_specification() -> None:
    """Its example, and the same by hand."""
    webhook_id, moment, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}'
    signed = Webhook(SECRET.replace("Zio2", "Zio2")).sign(webhook_id, datetime.fromtimestamp(moment, UTC), body)
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    by_hand = hmac.new(key, f"{webhook_id}.{moment}.{body}".encode(), hashlib.sha256).digest()
    assert signed == f"v1,{base64.b64encode(by_hand).decode()}"


async def test_a_webhook_is_taken_with_its_signature() -> None:
    async with receiving() as there:
        assert await receiver_at(there.url).deliver(MESSAGE) == 200
    ((line, headers, body),) = there.requests
    assert line == "POST /hook?key=of-the-query HTTP/1.1"
    assert (body, headers["content-type"]) == (MESSAGE.body, "application/json")
    assert headers["webhook-id"] == MESSAGE.id
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f"{MESSAGE.id}.{headers['webhook-timestamp']}.".encode() + MESSAGE.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    assert there.forged == 0


async def test_in_a_rotation_the_receiver_may_have_the_old_secret_or_the_new_one() -> None:
    for known in (SECRET, OLD):
        async with receiving() as there:
            there.secret = known
            await Receiver(there.url, [SECRET, OLD], allow_private=True).deliver(MESSAGE)
            assert (there.forged, len(there.verified)) == (0, 1)
    async with receiving() as there:
        there.secret = OLD
        await receiver_at(there.url).deliver(MESSAGE)
        assert there.forged == 1, "the tests' receiver does verify"


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        answer(200, body=b"\xff\xfe garbage \x00"),
        answer(204),
        answer(202, "Content-Encoding: gzip", body=b"no gzip"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nit ends before",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2000\r\n" + b"x" * 0x2000 + b"\r\n",
        answer(200, "Set-Cookie: a=b"),
    ],
    ids=["garbage", "no content", "no gzip", "cut off", "endless", "a cookie"],
)
async def test_two_hundred_is_two_hundred_whatever_its_body_is(said: bytes) -> None:
    async with receiving(said) as there:
        await receiver_at(there.url).deliver(MESSAGE)
        assert sum(there.ids.values()) == 1


@pytest.mark.parametrize(
    ("said", "words", "retry"),
    [
        (answer(301, "Location: http://127.0.0.1:9/elsewhere"), "set WEBHOOK_URL to where it leads", True),
        (answer(307, "Location: /elsewhere"), "which is not followed", True),
        (answer(400), "look into its log", True),
        (answer(401), "compare WEBHOOK_SECRET", True),
        (answer(404), "correct WEBHOOK_URL", True),
        (answer(410), "or unset it", False),
        (answer(500, body=b"+15550100009 is unknown"), "look into its log", True),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "something else than HTTP", True),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "", True),
        (b" ", "something else than HTTP", True),
    ],
    ids=["301", "307", "400", "401", "404", "410", "500", "ssh", "a huge header", "a blank"],
)
async def test_what_else_is_answered_is_a_failure_with_a_remedy(said: bytes, words: str, *, retry: bool) -> None:
    async with receiving(said) as there:
        error = await refusal(there.url)
        assert len(there.requests) == 1, "a redirect is not followed"
    assert words in str(error)
    assert error.retry is retry
    assert "5550100009" not in str(error), "what it says is not repeated"
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "120", 120),
        (503, "0", 1),
        (429, "999999999", MAX_RETRY_AFTER_SECONDS),
        (429, "soon", None),
        (500, "120", None),
    ],
)
async def test_a_busy_receiver_says_when_it_has_time(status: int, header: str, seconds: float | None) -> None:
    async with receiving(answer(status, f"Retry-After: {header}")) as there:
        error = await refusal(there.url)
    assert (error.retry, error.after_seconds) == (True, seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("-5", None),
        ("٣", None),
        ("9" * 5000, None),
        ("1e3", None),
        ("Mon, 30 Nov 2026 00:01:00 GMT", 60.0),
        ("Mon, 30 Nov 2026 00:01:00 -0000", 60.0),
        ("Mon, 30 Nov 2020 00:01:00 GMT", 1.0),
        ("Mon, 30 Nov 9999 00:01:00 GMT", MAX_RETRY_AFTER_SECONDS),
        (" 7 ", 7.0),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    found = seconds_of(text, datetime(2026, 11, 30, tzinfo=UTC))
    assert found == (MAX_RETRY_AFTER_SECONDS if text == "9" * 5000 and found is not None else seconds)


async def test_a_receiver_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "ATTEMPT_SECONDS", 0.3)
    async with receiving(HANG) as there:
        error = await refusal(there.url)
    assert "does not answer within 0.3 s: have it answer first, and work afterwards" in str(error)
    assert error.retry


async def test_a_receiver_that_is_not_there() -> None:
    async with receiving() as there:
        url = there.url
    assert "nothing listens there" in str(await refusal(url))
    assert "DNS" in str(await refusal("https://no-such-host.invalid/hook"))


async def test_a_receiver_without_tls() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(400))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "does not speak TLS" in str(await refusal(f"https://127.0.0.1:{port}/hook"))


async def test_a_cancelled_delivery_leaves_nothing_open() -> None:
    async with receiving(HANG) as there:
        task = asyncio.create_task(receiver_at(there.url).deliver(MESSAGE))
        await there.came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("93.184.215.14", "public"),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", "public"),
        ("::ffff:93.184.215.14", "public"),
        ("127.0.0.1", "private"),
        ("127.8.8.8", "private"),
        ("10.0.0.7", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("::1", "private"),
        ("fd12::1", "private"),
        ("::ffff:10.0.0.7", "private"),
        ("64:ff9b::a00:7", "private"),
        ("2002:0a00:0007::1", "private"),
        ("169.254.169.254", "never"),
        ("::ffff:169.254.169.254", "never"),
        ("64:ff9b::a9fe:a9fe", "never"),
        ("2002:a9fe:a9fe::1", "never"),
        ("fe80::1", "never"),
        ("fe80::1%eth0", "never"),
        ("fd00:ec2::254", "never"),
        ("100.100.100.200", "never"),
        ("0.0.0.0", "never"),
        ("::", "never"),
        ("224.0.0.1", "never"),
        ("ff02::1", "never"),
        ("255.255.255.255", "never"),
        ("fec0::1", "private"),
        ("::7f00:1", "never"),
        ("::ffff:0:a9fe:a9fe", "never"),
    ],
)
def test_addresses_are_public_private_or_never_connected_to(address: str, found: str) -> None:
    assert reach(address) == found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1"])
async def test_an_address_of_a_private_network_is_not_connected_to(host: str) -> None:
    async with receiving() as there:
        error = await refusal(there.url.replace("127.0.0.1", host), allow_private=False)
        assert there.requests == []
    assert "an address of a private network: if it is yours, set WEBHOOK_ALLOW_PRIVATE=1" in str(error)


@pytest.mark.parametrize("host", ["2130706433", "127.1", "exa mple", "a" * 300, "..", "xn--"])
async def test_a_host_that_none_can_have_is_named(host: str) -> None:
    error = await refusal(f"https://{host}/hook")
    assert "WEBHOOK_URL" in str(error) or "check the address" in str(error)


@pytest.mark.parametrize("allow", [False, True])
async def test_the_address_of_a_clouds_credentials_is_never_connected_to(*, allow: bool) -> None:
    for host in ("169.254.169.254", "[fe80::1]", "0.0.0.0", "[::ffff:169.254.169.254]"):
        error = await refusal(f"https://{host}/hook", allow_private=allow)
        assert "an address that no receiver has" in str(error)


async def test_what_is_connected_to_is_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address first and then to a private one gets no connection to the latter."""
    connected: list[Any] = []
    answers = iter(["93.184.215.14", "127.0.0.1"])
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        address = next(answers)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def connect(sock: socket.socket, address: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "sock_connect", connect)
    assert "nothing listens there" in str(await refusal("https://rebinding.example/hook", allow_private=False))
    assert "private network" in str(await refusal("https://rebinding.example/hook", allow_private=False))
    assert connected == [("93.184.215.14", 443)]


async def test_plain_http_is_for_private_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    error = await refusal("http://93.184.215.14/hook")
    assert "WEBHOOK_URL must begin with https:// there" in str(error)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as there:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        await receiver_at(there.url).deliver(MESSAGE)


def test_the_receiver_of_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert Receiver.from_settings(Settings(insecure=True, realtime_url="ws://x")) is None
    made = Receiver.from_settings(
        Settings(
            insecure=True,
            realtime_url="ws://x",
            webhook_url="https://office.example:8443/hook?key=of-the-query",
            webhook_secret=f"{SECRET}, {OLD}",
        )
    )
    assert made is not None
    assert repr(made) == "<Receiver office.example:8443>"
    assert TAKEN.startswith(b"HTTP/1.1 200")
