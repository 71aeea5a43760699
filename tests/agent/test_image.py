"""Images that are shown to the model: what is taken, what is refused, and that no message repeats them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from phoneagent import DefinitionError
from phoneagent.agent.image import MAX_IMAGE_BYTES, data_url

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0" + bytes(20)


def test_bytes_become_a_data_url_of_what_they_are() -> None:
    assert data_url(PNG) == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert data_url(JPEG).startswith("data:image/jpeg;base64,")


def test_a_data_url_stays_as_it_is() -> None:
    assert data_url(data_url(PNG)) == data_url(PNG)
    assert data_url(data_url(PNG).replace("image/png", "IMAGE/PNG")) == data_url(PNG)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "does not match its type"),
        (b"GIF89a", "does not match its type"),
        (data_url(PNG).replace("png", "jpeg"), "does not match its type"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "does not match its type"),
        ("https://x.example/secret.png", "not a data URL"),
        ("data:image/png,secret", "not a data URL"),
        ("data:image/png;base64,sec ret", "not base64"),
        ("data:image/png;base64,säcret", "not base64"),
        (PNG + bytes(MAX_IMAGE_BYTES), "keep to 1048576"),
        ("data:image/png;base64," + "A" * (2 * MAX_IMAGE_BYTES), "more than 1048576 bytes"),
        (42, "of type int"),
        (None, "of type NoneType"),
    ],
)
def test_what_the_model_would_refuse_is_refused(image: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words) as error:
        data_url(image)
    assert len(str(error.value)) < 200
    assert "secret" not in str(error.value)
