"""A network fault in one line: what failed between this machine and a server, and the remedy.

The libraries that connect also read the environment: proxies and certificate files. So the line names the variable if
one is to blame, and the server otherwise. It never contains a secret: a proxy is shown without its password.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Client:
    """A library that connects, and what it reads from the environment."""

    secure: Sequence[str]
    """The kinds of proxies for an encrypted connection, in order: "https" stands for HTTPS_PROXY."""
    plain: Sequence[str]
    socks_module: str
    socks_package: str
    ca_variables: Sequence[str]
    strict: bool = False
    """Whether a proxy must have a scheme, and no user without a password."""


WEBSOCKETS = Client(
    secure=("wss", "socks", "https", "all"),  # it does not read ALL_PROXY itself: see `proxy_of`
    plain=("ws", "socks", "https", "http", "all"),
    socks_module="python_socks",
    socks_package="python-socks[asyncio]",
    ca_variables=("SSL_CERT_FILE", "SSL_CERT_DIR"),
    strict=True,
)
REQUESTS = Client(
    secure=("https", "all"),
    plain=("http", "all"),
    socks_module="socks",
    socks_package="requests[socks]",
    ca_variables=("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
HTTPX = Client(
    secure=("https", "all"),
    plain=("http", "all"),
    socks_module="socksio",
    socks_package="socksio",
    ca_variables=("SSL_CERT_FILE", "SSL_CERT_DIR"),
)
DIRECT = Client(secure=(), plain=(), socks_module="", socks_package="", ca_variables=("SSL_CERT_FILE", "SSL_CERT_DIR"))
"""A library that uses no proxy, like aiohttp."""

_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")
_UNKNOWN_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_CUT = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, 0})  # 0: how TLS reports an end
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
)
MAX_CAUSES = 20
"""How many exceptions in a chain are examined."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A network fault: `line` says what failed and what to do, `own` whether this machine's environment is to blame."""

    line: str
    own: bool

    def __str__(self) -> str:
        return self.line


@dataclass(frozen=True, slots=True)
class _Proxy:
    variable: str
    value: str

    @property
    def address(self) -> str:
        """The address without user and password; "" if it cannot be read."""
        with suppress(ValueError):
            parts = urlsplit(self.value if "://" in self.value else f"http://{self.value}")
            if parts.hostname and parts.hostname.isascii():
                host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
                return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port is not None else "")
        return ""


def is_loopback(url: str) -> bool:
    """Return whether a URL leads to this machine. No proxy is used then."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_of(url: str, client: Client) -> str | None:
    """Return the address of the proxy through which `client` reaches `url`, with the password, or None."""
    proxy = _proxy(url, client)
    return None if proxy is None else proxy.value


def find_faults(url: str, client: Client) -> list[Fault]:
    """Return what is wrong in the environment for connections to `url`, before any is made."""
    proxy = _proxy(url, client)
    found = [] if proxy is None else [_proxy_fault(proxy, url, client)]
    if _is_secure(url):
        found.append(_ca_fault(client))
    return [fault for fault in found if fault is not None]


def explain(error: BaseException, url: str, client: Client) -> Fault:
    """Explain why a connection to `url` failed, from the exception that `client` raised."""
    unknown = Fault(f"{type(error).__name__}: check the address and the network", own=False)
    return find(error, url, client) or unknown


def find(error: BaseException, url: str, client: Client) -> Fault | None:
    """Return the network fault behind an exception of `client`, None if it is of another kind."""
    proxy = _proxy(url, client)
    if proxy is not None and (fault := _proxy_fault(proxy, url, client)) is not None:
        return fault
    causes = list(_causes(error))
    if proxy is not None and (fault := _refused_by_proxy(causes, proxy, url)) is not None:
        return fault
    if tls := [cause for cause in causes if isinstance(cause, ssl.SSLError)]:  # some libraries wrap one in another
        told = sorted(tls, key=lambda cause: (hasattr(cause, "verify_code"), bool(_reason(cause))))
        return _tls_fault(told[-1], url, proxy, client)
    if (fault := _ca_fault(client)) is not None and any(_is_about_a_file(cause) for cause in causes):
        return fault
    where = _host(url) if proxy is None else f"the proxy of {proxy.variable} ({proxy.address})"
    remedy = "check the address" if proxy is None else f"start it, correct {proxy.variable}, or unset it"
    for cause in causes:
        if (words := _system_fault(cause, where, remedy)) is not None:
            return Fault(words, own=proxy is not None)
    for cause in causes:
        name = type(cause).__name__
        if "Timeout" in name:
            return Fault(f"{where} does not answer in time: check the network, and firewalls on the way", own=False)
        if name in ("InvalidMessage", "BadStatusLine", "RemoteDisconnected", "EOFError", "RemoteProtocolError"):
            words = f"{where} ends the connection, or answers with something else than HTTP"
            return Fault(f"{words}: {remedy}", own=proxy is not None)
    return None


# --- proxies ---


def _proxy(url: str, client: Client) -> _Proxy | None:
    """Return the proxy that a client uses for `url`, None if it connects directly."""
    parts = urlsplit(url)
    if is_loopback(url) or not parts.hostname or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    found = urllib.request.getproxies()
    for kind in client.secure if _is_secure(url) else client.plain:
        if value := found.get(kind):
            lower = f"{kind}_proxy"
            spellings = [lower, *(name for name in os.environ if name.lower() == lower)]
            name = next((each for each in spellings if os.environ.get(each)), "the proxy setting of this system")
            return _Proxy(name, value)
    return None


def _proxy_fault(proxy: _Proxy, url: str, client: Client) -> Fault | None:
    """Return what is wrong with a proxy's address, as far as that is clear without connecting."""
    avoid = f"or list {_host(url)} in NO_PROXY"
    text = proxy.value if client.strict or "://" in proxy.value else f"http://{proxy.value}"
    try:
        parts = urlsplit(text)
        unquote(parts.netloc, errors="strict")
        understood = bool(parts.scheme in ("http", "https", *_SOCKS) and proxy.address and parts.port != 0)
    except ValueError:  # a bad port or IPv6 address, or a name in another encoding
        understood = False
    if not understood or parts.path not in ("", "/") or parts.query or parts.fragment:
        return Fault(f"{proxy.variable} is not the address of a proxy: write http://host:port, {avoid}", own=True)
    if client.strict and parts.username is not None and parts.password is None:
        words = f"{proxy.variable} has a name but no password: write http://name:password@host:port, {avoid}"
        return Fault(words, own=True)
    if parts.scheme in _SOCKS and importlib.util.find_spec(client.socks_module) is None:
        words = f"{proxy.variable} names a SOCKS proxy ({proxy.address}), which needs another package"
        return Fault(f"{words}: pip install '{client.socks_package}', {avoid}", own=True)
    return None


def _refused_by_proxy(causes: Sequence[BaseException], proxy: _Proxy, url: str) -> Fault | None:
    """Return what the proxy itself answered, None if it is not to blame."""
    own = [cause for cause in causes if "Proxy" in type(cause).__name__ or "Tunnel connection" in str(cause)]
    where = f"the proxy of {proxy.variable} ({proxy.address})"
    status = ""
    for cause in own:
        told = getattr(getattr(cause, "response", None), "status_code", None) or cause
        if found := re.match(r"(?:.*Tunnel connection failed: )?([1-5]\d\d)\b", str(told)):
            status = found.group(1)
    if status == "407":
        plain = proxy.address.partition("://")[2]
        words = f"{where} asks for a name and a password, or refuses them (HTTP 407)"
        return Fault(f"{words}: set {proxy.variable} to http://name:password@{plain}", own=True)
    if status:
        return Fault(f"{where} refuses {_host(url)} with HTTP {status}: have it allow that host", own=True)
    if own and not any(isinstance(cause, ssl.SSLError | socket.gaierror) or _number(cause) for cause in causes):
        return Fault(f"{where} does not answer as a proxy does: correct {proxy.variable}, or unset it", own=True)
    return None


# --- certificates ---


def _ca_fault(client: Client) -> Fault | None:
    """Return the fault of a variable that names missing certificates."""
    for name in client.ca_variables:
        path = os.environ.get(name)
        if path and not os.path.exists(path):
            return Fault(
                f"{name} names {path.strip() or repr(path)}, which does not exist: correct it, or unset it", own=True
            )
        if path and name == "SSL_CERT_FILE" and not _holds_certificate(path):
            words = f"{name} names {path.strip() or repr(path)}, which holds no certificate"
            return Fault(f"{words}: write a PEM file there, or unset it", own=True)
    return None


def _holds_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:  # OpenSSL's error is one too
        return False
    return True


def _tls_fault(error: ssl.SSLError, url: str, proxy: _Proxy | None, client: Client) -> Fault:
    host = _host(url)
    through = f", through the proxy of {proxy.variable} ({proxy.address})," if proxy is not None else ""
    if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_code"):
        return _certificate_fault(error, f"the certificate of {host}{through}", client)
    reason = _reason(error)
    variable = next((name for name in client.ca_variables if os.environ.get(name)), None)
    if variable is not None and ("NO_CERTIFICATE" in reason or "PEM" in reason or reason == "NO_START_LINE"):
        words = f"{variable} names {os.environ[variable]}, which holds no certificate"
        return Fault(f"{words}: write a PEM file there, or unset it", own=True)
    if reason in _NOT_TLS:
        words = f"{host}{through} does not speak TLS: check the address and its port, and proxies on the way"
        return Fault(words, own=False)
    words = f"{host}{through} breaks off the TLS handshake ({reason or type(error).__name__})"
    return Fault(f"{words}: check the address, and proxies on the way", own=False)


def _reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's name of an error; "" for one that a library made itself."""
    return getattr(error, "reason", None) or ""


def _certificate_fault(error: ssl.SSLCertVerificationError, which: str, client: Client) -> Fault:
    match error.verify_code:
        case 10:
            return Fault(f"{which} has expired: renew it there, or correct this machine's clock", own=False)
        case 9:
            return Fault(f"{which} is not valid yet: correct this machine's clock", own=False)
        case 62 | 64:
            return Fault(f"{which} is for another name: connect to the name in it", own=False)
        case 18:
            what = "is self-signed"
        case 19:
            what = "comes from an unknown CA, self-signed, perhaps of a proxy on the way"
        case 2 | 20 | 21:
            what = "comes from an unknown issuer, perhaps a private CA"
        case _:
            why = " ".join(str(error.verify_message).split())
            return Fault(f"{which} is not accepted ({why}): have a valid one installed there", own=False)
    if (fault := _ca_fault(client)) is not None:
        return Fault(f"{which} {what}, and {fault}", own=True)
    name = next((each for each in client.ca_variables if os.environ.get(each)), None)
    remedy = f"set {client.ca_variables[0]} to a PEM file with the CA's certificate"
    if name is not None:
        remedy = f"add the CA's certificate to {os.environ[name]}, which {name} names"
    return Fault(f"{which} {what}: {remedy}", own=True)


# --- the system ---


def _system_fault(cause: BaseException, where: str, remedy: str) -> str | None:
    """Explain an error of the operating system; None if it is another kind."""
    if isinstance(cause, UnicodeError):
        return f"{where} is not a host name: {remedy}"
    if isinstance(cause, socket.gaierror):
        if cause.errno in _UNKNOWN_NAME:
            return f"DNS does not know {where}: {remedy}, and this machine's DNS"
        return f"DNS does not answer for {where}: check this machine's network and DNS server"
    number = _number(cause)
    if number == errno.ECONNREFUSED:
        return f"{where} refuses the connection: nothing listens there; {remedy}"
    if number == errno.ETIMEDOUT:
        return f"{where} does not answer in time: check the network, and firewalls on the way"
    if number in _NO_ROUTE:
        return f"there is no way to {where}: check this machine's network"
    if number in _CUT:
        return f"{where} ends the connection at once: {remedy}"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open in this process: raise the limit (ulimit -n)"
    if number in (errno.EACCES, errno.EPERM):
        return f"this machine forbids a connection to {where}: check its firewall"
    return None


def _number(cause: BaseException) -> int | None:
    """Return the errno of an error. An error that joins several, for IPv4 and IPv6, has it only in its text."""
    if not isinstance(cause, OSError) or isinstance(cause, socket.gaierror | ssl.SSLError):
        return None
    if isinstance(cause.errno, int):
        return cause.errno
    if isinstance(cause, ConnectionError):  # asyncio makes some without a number
        return errno.ECONNREFUSED if isinstance(cause, ConnectionRefusedError) else errno.ECONNRESET
    found = re.search(r"\[Errno (\d+)\]", str(cause))
    return int(found.group(1)) if found else None


# --- parts ---


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, however its library keeps them."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < MAX_CAUSES:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        kept = [getattr(cause, name, None) for name in ("reason", "original_error", "os_error", "certificate_error")]
        more = (*cause.args, *kept, *getattr(cause, "exceptions", ()), cause.__cause__, cause.__context__)
        waiting += [each for each in more if isinstance(each, BaseException)]


def _is_about_a_file(cause: BaseException) -> bool:
    return isinstance(cause, FileNotFoundError) or "certificate bundle" in str(cause)


def _is_secure(url: str) -> bool:
    return urlsplit(url).scheme in ("wss", "https")


def _host(url: str) -> str:
    parts = urlsplit(url)
    with suppress(ValueError):
        if parts.port is not None:
            return f"{parts.hostname}:{parts.port}"
    return parts.hostname or "the server"
