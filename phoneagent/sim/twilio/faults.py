"""The faults of a connection to the server, in plain words with a remedy."""

from __future__ import annotations

import os
import socket
import ssl


def tls_failure(error: BaseException) -> str | None:
    """Return why TLS failed and what to do; None if `error` is another fault."""
    for cause in reversed(_causes(error)):  # aiohttp wraps the error that knows the reason
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is refused ({cause.verify_message.rstrip('.')}); Twilio takes only those of "
                "public authorities, and here SSL_CERT_FILE may name another authority's"
            )
        if isinstance(cause, ssl.SSLError):
            reason = (getattr(cause, "reason", None) or type(cause).__name__).replace("_", " ").lower()
            return f"the server does not speak TLS there, or none that is accepted ({reason})"
    return None


def no_connection(error: BaseException) -> str:
    """Return why there is no connection and what to do."""
    why = type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return f"the server's name has no address ({cause.strerror}); is the name right?"
        if isinstance(cause, OSError):
            # The error's own words repeat the address. With several addresses, asyncio gives only words.
            why = os.strerror(cause.errno) if cause.errno else str(cause) or why
    return f"no connection ({why}); is the server running?"


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error, its cause, the cause of that, and so on."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    return causes
