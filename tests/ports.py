"""A free port for a server that is started a moment later, in another process."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Return a port below those that the system gives to connections, so that none takes it meanwhile."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port := random.SystemRandom().randrange(12_000, 32_000)))
            except OSError:
                continue
            return port
