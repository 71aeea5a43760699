"""A new certificate for 127.0.0.1 and localhost, made by the `openssl` command: some clients insist on wss://."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

from phoneagent.errors import ConfigurationError

DAYS = 7
_COMMAND = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
    *("-days", str(DAYS), "-subj", "/CN=phoneagent simulator"),
    *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
)


class Certificate:
    """A self-signed certificate in its own directory, which `delete` removes. `path` is the file to trust."""

    def __init__(self) -> None:
        """Make the certificate.

        Raises:
            ConfigurationError: there is no `openssl`, or it failed.
        """
        if shutil.which("openssl") is None:
            raise ConfigurationError(["TLS needs the command openssl, which is not on the PATH; install it"])
        self._directory = tempfile.TemporaryDirectory(prefix="phoneagent-")
        self.path = Path(self._directory.name) / "certificate.pem"
        key = Path(self._directory.name) / "key.pem"
        command = [*_COMMAND, "-keyout", str(key), "-out", str(self.path)]
        made = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - nothing of it comes from outside
        if made.returncode:
            self.delete()
            reason = made.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
            raise ConfigurationError(
                [f"openssl made no certificate (exit {made.returncode}): {reason}; try without TLS"]
            )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.path, key)

    def delete(self) -> None:
        """Remove the files."""
        self._directory.cleanup()
