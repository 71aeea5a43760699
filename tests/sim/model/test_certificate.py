"""The certificate of a simulated server: made when it starts, trusted by those who ask, gone when it ends."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

from phoneagent.errors import ConfigurationError
from phoneagent.sim import Model
from phoneagent.sim.model.certificate import Certificate
from tests.sim.model.conftest import Client

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


@needs_openssl
@pytest.mark.anyio
async def test_a_client_that_trusts_it_connects_by_either_name() -> None:
    model = Model(tls=True)
    assert model.certificate is None
    async with model:
        assert model.url.startswith("wss://127.0.0.1:")
        assert model.base_url.startswith("https://127.0.0.1:")
        path = model.certificate
        assert path is not None
        trust = ssl.create_default_context(cafile=str(path))
        for url in (model.url, model.url.replace("127.0.0.1", "localhost")):
            async with connect(f"{url}?model=m", ssl=trust, compression=None) as socket:
                assert (await Client(socket, dialect="ga").next())["type"] == "session.created"
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(f"{model.url}?model=m")
        secrets = f"{model.base_url}/realtime/client_secrets"
        async with aiohttp.ClientSession() as http, http.post(secrets, json={}, ssl=trust) as response:
            assert response.status == 200
    assert not path.exists()
    assert model.certificate is None


@needs_openssl
def test_its_files_are_the_owner_s_alone() -> None:
    certificate = Certificate()
    assert certificate.path.parent.stat().st_mode & 0o077 == 0
    certificate.delete()


def test_without_openssl_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="needs the command openssl"):
        Certificate()


def test_an_openssl_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "openssl"
    broken.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ConfigurationError, match=r"exit 3\): no such option"):
        Certificate()
