"""Network faults in one line: real servers, certificates and proxies on loopback, and the exceptions they lead to."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import httpx2
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect

from phoneagent.errors import network
from phoneagent.errors.network import DIRECT, HTTPX, REQUESTS, WEBSOCKETS, Client, Fault
from phoneagent.model.tunnel import Connection
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
SECRET = "s3cret-word"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what this machine's environment has of proxies and certificates."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {*WEBSOCKETS.ca_variables, *REQUESTS.ca_variables}:
            monkeypatch.delenv(name)


# --- the libraries ---


async def by_websockets(port: int, host: str, secure: bool) -> None:
    await connect(f"ws{'s' * secure}://{host}:{port}/", create_connection=Connection, open_timeout=HANG_SECONDS)


async def by_requests(port: int, host: str, secure: bool) -> None:
    await asyncio.to_thread(requests.get, f"http{'s' * secure}://{host}:{port}/", timeout=HANG_SECONDS)


async def by_httpx(port: int, host: str, secure: bool) -> None:
    async with httpx2.AsyncClient(timeout=HANG_SECONDS) as http:
        await http.get(f"http{'s' * secure}://{host}:{port}/")


async def by_aiohttp(port: int, host: str, secure: bool) -> None:
    context = ssl.create_default_context()  # its own is as old as the process
    async with aiohttp.ClientSession() as http, http.get(f"http{'s' * secure}://{host}:{port}/", ssl=context):
        pass


Way = tuple[Client, Callable[[int, str, bool], Awaitable[None]]]
WAYS: dict[str, Way] = {
    "websockets": (WEBSOCKETS, by_websockets),
    "requests": (REQUESTS, by_requests),
    "httpx": (HTTPX, by_httpx),
    "aiohttp": (DIRECT, by_aiohttp),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
every_way_by_proxy = pytest.mark.parametrize("way", list(WAYS.values())[:3], ids=list(WAYS)[:3])


async def fault_of(way: Way, port: int, *, host: str = "127.0.0.1", secure: bool = True) -> Fault:
    client, go = way
    with pytest.raises(Exception) as raised:
        await go(port, host, secure)
    scheme = ("ws" if client is WEBSOCKETS else "http") + "s" * secure
    fault = network.find(raised.value, f"{scheme}://{host}:{port}/", client)
    assert fault is not None, repr(raised.value)
    assert "\n" not in fault.line
    assert SECRET not in fault.line
    return fault


# --- the servers ---


@asynccontextmanager
async def accepting(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve connections on loopback; at the end wait for all of them, also for those that still shake hands."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def finished() -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while accepted := asyncio.all_tasks() - before:
                await asyncio.wait(accepted)

    before = asyncio.all_tasks()
    server = await asyncio.start_server(closing, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for _ in range(2):
            await asyncio.sleep(0)  # a connection that the server takes up as it closes would never be closed
        await finished()
        server.close()
        await finished()


@asynccontextmanager
async def listening(
    answer: Callable[[bytes], bytes | None], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Listen on loopback and answer the first words of each client; None is no answer, only the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = answer(await reader.read(4096))
        if answered is not None:
            writer.write(answered)

    async with accepting(serve, context) as port:
        yield port


@asynccontextmanager
async def tunnelling(port: int) -> AsyncIterator[int]:
    """Run an HTTP proxy that leads every CONNECT to a port of this machine."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer), return_exceptions=True)

    async with accepting(serve) as own_port:
        yield own_port


class Authority:
    """A private CA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Private CA")])
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._pem(self._certificate(self.name, self.name, self.key, 0, 1, True)))

    def _certificate(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begin: int, end: int, ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        public = self.key.public_key()
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(days=begin, minutes=-5))
        builder = builder.not_valid_after(now + timedelta(days=end))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        if issuer == self.name:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
            builder = builder.add_extension(identifier, critical=False)
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        return builder

    def _pem(self, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        return builder.sign(key or self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def context(self, host: str, *, begin: int = 0, end: int = 1, self_signed: bool = False) -> ssl.SSLContext:
        """Return what a server for `host` needs; its certificate is valid from `begin` to `end`, in days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        issuer = subject if self_signed else self.name
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        builder = self._certificate(subject, issuer, key, begin, end, False).add_extension(names, critical=False)
        file = self.folder / "server.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(self._pem(builder, key if self_signed else None) + private)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def nothing(words: bytes) -> bytes | None:
    return None


# --- certificates ---


@every_way
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"begin": -9, "end": -2}, "the certificate of localhost:{} has expired: renew it there"),
        ({"begin": 2, "end": 9}, "the certificate of localhost:{} is not valid yet: correct this machine's clock"),
        ({"host": "other.example"}, "the certificate of localhost:{} is for another name"),
        ({"self_signed": True}, "the certificate of localhost:{} is self-signed: add the CA's certificate to "),
    ],
    ids=["expired", "not yet", "another name", "self-signed"],
)
async def test_a_certificate_that_fails_is_told_with_its_reason(
    way: Way, authority: Authority, monkeypatch: pytest.MonkeyPatch, made: dict[str, object], expected: str
) -> None:
    monkeypatch.setenv(way[0].ca_variables[0], str(authority.file))
    context = authority.context(**{"host": "localhost"} | made)  # type: ignore[arg-type]
    async with listening(nothing, context) as port:
        fault = await fault_of(way, port, host="localhost")
    assert fault.line.startswith(expected.format(port))


@every_way
@pytest.mark.parametrize("missing", [False, True])
async def test_a_private_ca_names_the_variable_to_set(
    way: Way, authority: Authority, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    variable = way[0].ca_variables[0]
    if missing:
        monkeypatch.setenv(variable, "/no/such/ca.pem")
    async with listening(nothing, authority.context("localhost")) as port:
        fault = await fault_of(way, port, host="localhost")
    assert fault.own
    if missing:
        assert fault.line.endswith(f"{variable} names /no/such/ca.pem, which does not exist: correct it, or unset it")
    else:
        assert fault.line.startswith(f"the certificate of localhost:{port} comes from an unknown issuer")
        assert fault.line.endswith(f"set {variable} to a PEM file with the CA's certificate")


@pytest.mark.parametrize("way", [WAYS["requests"], WAYS["httpx"]], ids=["requests", "httpx"])
async def test_a_file_without_certificates_is_named(
    way: Way, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable, file = way[0].ca_variables[0], tmp_path / "notes.pem"
    file.write_text("to do: ask for the certificate\n")
    monkeypatch.setenv(variable, str(file))
    async with listening(nothing, authority.context("localhost")) as port:
        fault = await fault_of(way, port, host="localhost")
    assert fault == Fault(
        f"{variable} names {file}, which holds no certificate: write a PEM file there, or unset it", own=True
    )


def test_an_end_in_the_middle_of_a_tls_handshake_may_have_no_number() -> None:
    error = ConnectionError("Connection aborted.")
    error.__cause__ = OSError(0, "Error")
    fault = network.explain(error, "https://a.example", REQUESTS)
    assert fault.line == "a.example ends the connection at once: check the address"


@every_way
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", None], ids=["HTTP", "an end"])
async def test_a_server_without_tls(way: Way, answer: bytes | None) -> None:
    async with listening(lambda words: answer) as port:
        fault = await fault_of(way, port)
    assert str(port) in fault.line
    assert "TLS" in fault.line or "ends the connection" in fault.line


# --- addresses ---


@every_way
async def test_a_closed_door(way: Way) -> None:
    async with listening(nothing) as port:
        pass
    for host in ("127.0.0.1", "localhost"):  # the second may stand for two addresses
        fault = await fault_of(way, port, host=host, secure=False)
        expected = f"{host}:{port} refuses the connection: nothing listens there; check the address"
        assert fault == Fault(expected, own=False)


@every_way
async def test_a_name_that_dns_does_not_know(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, words in (
        (socket.EAI_NONAME, "DNS does not know realtime.example:443: check the address"),
        (socket.EAI_AGAIN, "DNS does not answer for realtime.example:443: check this machine's network"),
        (socket.EAI_FAIL, "DNS does not answer for realtime.example:443: check this machine's network"),
    ):

        def resolve(*args: object, number: int = number, **options: object) -> list[object]:
            raise socket.gaierror(number, "no such thing")

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        fault = await fault_of(way, 443, host="realtime.example")
        assert fault.line.startswith(words)


@every_way
@pytest.mark.parametrize("answer", [b"220 mail.example ESMTP\r\n", None], ids=["another protocol", "an end"])
async def test_something_that_is_not_http(way: Way, answer: bytes | None) -> None:
    if way[0] is DIRECT:
        pytest.skip("the doctor tells of it in words of its own")
    async with listening(lambda words: answer) as port:
        fault = await fault_of(way, port, secure=False)
    assert fault.line.startswith(f"127.0.0.1:{port} ends the connection")


def test_other_errors_are_none_of_the_network_s() -> None:
    assert network.find(KeyError("x"), "https://agent.example", HTTPX) is None
    assert network.explain(KeyError("x"), "https://agent.example", HTTPX).line.startswith("KeyError: check the address")
    looped = OSError("a")
    looped.__cause__ = OSError("b")
    looped.__cause__.__cause__ = looped
    assert network.find(looped, "https://agent.example", HTTPX) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(101, "x"), "there is no way to a.example:"),
        (OSError(113, "x"), "there is no way to a.example:"),
        (OSError(110, "x"), "a.example does not answer in time:"),
        (TimeoutError(), "a.example does not answer in time:"),
        (OSError(104, "x"), "a.example ends the connection at once:"),
        (OSError(24, "x"), "too many files are open in this process: raise the limit"),
        (OSError(1, "x"), "this machine forbids a connection to a.example:"),
        (UnicodeError("label too long"), "a.example is not a host name:"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed"), "a.example refuses the connection:"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_X] y"), "a.example breaks off the TLS handshake ("),
        (ExceptionGroup("x", [ValueError(), OSError(111, "x")]), "a.example refuses the connection:"),
    ],
)
def test_the_system_s_errors(error: BaseException, words: str) -> None:
    assert network.explain(error, "wss://user:pass@a.example/v1", WEBSOCKETS).line.startswith(words)


# --- proxies ---


@every_way_by_proxy
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "asks for a name and a password"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "refuses realtime.example:8443 with HTTP 403"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<h1>", "with HTTP 502"),
        (b"220 mail.example ESMTP\r\n", "does not answer as a proxy does; ends the connection, or answers with"),
        (None, "does not answer as a proxy does; ends the connection"),
    ],
    ids=["407", "403", "HTML", "another protocol", "an end"],
)
async def test_a_proxy_that_refuses(
    way: Way, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, expected: str
) -> None:
    async with listening(lambda words: answer) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@127.0.0.1:{port}")
        fault = await fault_of(way, 8443, host="realtime.example")
    assert fault.line.startswith(f"the proxy of HTTPS_PROXY (http://127.0.0.1:{port}) ")
    assert any(words in fault.line for words in expected.split("; "))
    assert fault.own


@every_way_by_proxy
async def test_a_proxy_that_is_not_there(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(nothing) as port:
        pass
    monkeypatch.setenv("https_proxy", f"http://me:{SECRET}@127.0.0.1:{port}")
    fault = await fault_of(way, 8443, host="realtime.example")
    words = f"the proxy of https_proxy (http://127.0.0.1:{port}) refuses the connection"
    assert fault.line.startswith(words)
    monkeypatch.setenv("https_proxy", f"http://me:{SECRET}@no.such.invalid:3128")
    fault = await fault_of(way, 8443, host="realtime.example")
    assert fault.line.startswith("DNS does not ")
    assert "the proxy of https_proxy (http://no.such.invalid:3128)" in fault.line


@every_way_by_proxy
async def test_a_proxy_that_looks_into_the_connection(
    way: Way, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(nothing, authority.context("realtime.example")) as port, tunnelling(port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
        fault = await fault_of(way, 8443, host="realtime.example")
    through = f"through the proxy of HTTPS_PROXY (http://127.0.0.1:{proxy}),"
    words = f"the certificate of realtime.example:8443, {through} comes from an unknown issuer"
    assert fault.line.startswith(words)
    assert way[0].ca_variables[0] in fault.line


@every_way_by_proxy
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4"])
async def test_a_socks_proxy_names_the_package(way: Way, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    if way[0] is HTTPX and scheme == "socks4":
        pytest.skip("it knows none")
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://me:{SECRET}@127.0.0.1:9")
    fault = await fault_of(way, 8443, host="realtime.example")
    words = f"HTTPS_PROXY names a SOCKS proxy ({scheme}://127.0.0.1:9), which needs another package: "
    assert fault.line == f"{words}pip install '{way[0].socks_package}', or list realtime.example:8443 in NO_PROXY"


@pytest.mark.parametrize(
    "value",
    ["127.0.0.1:3128", "ftp://127.0.0.1:3128", "http://", f"http://me:{SECRET}@[::1", "http://127.0.0.1:99999999",
     "http://127.0.0.1:port", "http://127.0.0.1:1/path", "http://127.0.0.1:1?a=b", "http://127.0.0.1:1#c",
     f"http://%ff:{SECRET}@127.0.0.1:1"],
)  # fmt: skip
async def test_a_proxy_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    fault = await fault_of(WAYS["websockets"], 8443, host="realtime.example")
    words = "HTTPS_PROXY is not the address of a proxy: write http://host:port, or list realtime.example:8443 in"
    assert fault.line.startswith(words)
    assert network.find_faults("wss://realtime.example:8443/", WEBSOCKETS) == [fault]


async def test_a_name_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me@127.0.0.1:1")
    fault = await fault_of(WAYS["websockets"], 8443, host="realtime.example")
    assert fault.line.startswith("HTTPS_PROXY has a name but no password")
    assert network.find_faults("https://realtime.example/", REQUESTS) == []


@pytest.mark.parametrize(
    ("client", "url", "variable", "used"),
    [
        (WEBSOCKETS, "wss://a.example", "HTTPS_PROXY", True),
        (WEBSOCKETS, "wss://a.example", "wss_proxy", True),
        (WEBSOCKETS, "wss://a.example", "SOCKS_PROXY", True),
        (WEBSOCKETS, "wss://a.example", "ALL_PROXY", True),
        (WEBSOCKETS, "wss://a.example", "HTTP_PROXY", False),
        (WEBSOCKETS, "ws://a.example", "HTTP_PROXY", True),
        (WEBSOCKETS, "ws://a.example", "https_proxy", True),
        (REQUESTS, "https://a.example", "ALL_PROXY", True),
        (REQUESTS, "https://a.example", "all_proxy", True),
        (REQUESTS, "https://a.example", "HTTP_PROXY", False),
        (REQUESTS, "http://a.example", "Http_Proxy", True),
        (HTTPX, "https://a.example", "Https_Proxy", True),
        (DIRECT, "https://a.example", "HTTPS_PROXY", False),
        (WEBSOCKETS, "wss://localhost:8000", "HTTPS_PROXY", False),
        (WEBSOCKETS, "wss://[::1]:8000", "HTTPS_PROXY", False),
        (WEBSOCKETS, "wss://127.0.0.7", "HTTPS_PROXY", False),
    ],
)
def test_the_variable_that_counts_is_named(
    monkeypatch: pytest.MonkeyPatch, client: Client, url: str, variable: str, used: bool
) -> None:
    monkeypatch.setenv(variable, "gopher://127.0.0.1")
    assert [fault.line.split(" ")[0] for fault in network.find_faults(url, client)] == [variable] * used
    monkeypatch.setenv("NO_PROXY", "b.example,a.example")
    assert network.find_faults(url, client) == []


def test_a_lower_case_variable_wins_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1")
    monkeypatch.setenv("https_proxy", "ftp://127.0.0.1")
    (fault,) = network.find_faults("wss://a.example", WEBSOCKETS)
    assert fault.line.startswith("https_proxy ")
    monkeypatch.setenv("https_proxy", "")
    assert network.find_faults("wss://a.example", WEBSOCKETS) == []


@pytest.mark.parametrize("client", [WEBSOCKETS, REQUESTS, HTTPX])
def test_missing_certificates_are_found_before_anything_connects(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    for variable in client.ca_variables:
        monkeypatch.setenv(variable, "/no/such/file.pem")
        (fault,) = network.find_faults("https://a.example", client)
        assert fault.line == f"{variable} names /no/such/file.pem, which does not exist: correct it, or unset it"
        assert network.find_faults("http://a.example", client) == []
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    "content", ["", "garbage", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", None]
)
def test_a_file_without_a_certificate_is_found_before_anything_connects(
    monkeypatch: pytest.MonkeyPatch, content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    else:
        path.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    (fault,) = network.find_faults("https://a.example", WEBSOCKETS)
    assert fault.line == f"SSL_CERT_FILE names {path}, which holds no certificate: write a PEM file there, or unset it"
    assert network.find_faults("https://a.example", REQUESTS) == []


def test_the_proxy_that_is_used_is_the_one_that_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://name:word@proxy.example:3128")
    assert network.proxy_of("wss://a.example", WEBSOCKETS) == "http://name:word@proxy.example:3128"
    assert network.proxy_of("ws://127.0.0.1:9", WEBSOCKETS) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:3128")
    assert network.proxy_of("wss://a.example", WEBSOCKETS) == "http://other.example:3128"
