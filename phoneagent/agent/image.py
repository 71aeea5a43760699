"""An image that is shown to the model: its bytes, or a data URL, checked where it is written."""

from __future__ import annotations

import base64
import binascii

from phoneagent.errors import DefinitionError

MAX_IMAGE_BYTES = 1024 * 1024
"""The maximum size of an image. Larger ones only cost more: the model sees them scaled down."""

_KINDS = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
"""The types that the Realtime API accepts, with the bytes that they begin with."""

_PREFIX = "data:"
_REMEDY = "pass the bytes of a PNG or JPEG, or its data URL (data:image/png;base64,…)"


def data_url(image: bytes | str) -> str:
    """Return an image as a data URL.

    Raises:
        DefinitionError: it is neither PNG nor JPEG, it is too large, or a URL of another kind. The message does not
            repeat it.
    """
    if isinstance(image, str):
        kind, data = _decoded(image)
    elif isinstance(image, bytes):
        kind, data = None, image
    else:
        raise DefinitionError(f"call.add has an image of type {type(image).__name__}: {_REMEDY}")
    if len(data) > MAX_IMAGE_BYTES:
        raise DefinitionError(f"call.add has an image of {len(data)} bytes: keep to {MAX_IMAGE_BYTES}")
    found = next((name for name, begin in _KINDS.items() if data.startswith(begin)), None)
    if found is None or kind not in (None, found):
        raise DefinitionError(f"call.add has an image whose data does not match its type: {_REMEDY}")
    return f"{_PREFIX}{found};base64,{base64.b64encode(data).decode()}"


def _decoded(url: str) -> tuple[str, bytes]:
    """Return the type and the bytes of a data URL."""
    head, comma, text = url.partition(",")
    kind, semicolon, encoding = head.removeprefix(_PREFIX).partition(";")
    if not (head.startswith(_PREFIX) and comma and semicolon and encoding == "base64"):
        raise DefinitionError(f"call.add has an image that is not a data URL: {_REMEDY}")
    if len(text) > MAX_IMAGE_BYTES * 4 // 3 + 4:  # checked before decoding
        raise DefinitionError(f"call.add has an image of more than {MAX_IMAGE_BYTES} bytes: make it smaller")
    try:
        return kind.lower(), base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DefinitionError(f"call.add has an image that is not base64: {_REMEDY}") from None
