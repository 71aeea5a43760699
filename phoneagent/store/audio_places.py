"""The places where the audio of calls is kept: a folder, or any URL that `fsspec` knows, such as s3://bucket/calls.

A place holds parts of recordings under relative paths. Its methods block, so they are called in threads. Failures raise
OSError for every kind of place.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from phoneagent.errors import ConfigurationError
from phoneagent.protocol.audio import SAMPLE_RATE

FOLDER_PART_BYTES = 3600 * 2 * SAMPLE_RATE
"""A file in a folder grows for an hour at most."""

URL_PART_BYTES = 10 * 2 * SAMPLE_RATE
"""An object cannot be appended to: one of ten seconds is rewritten with each further second."""


DELETE_TRIES = 10
"""Each process deletes old recordings, and several may delete the same folder at once."""


class Part(Protocol):
    """A part of a recording that is being written."""

    def append(self, data: bytes) -> bool:
        """Write more of it; after an OSError, none of `data` counts as written.

        Returns whether this may have created the part. If its recording was deleted in that moment, some of it is there
        again. Raises FileNotFoundError if the part has been deleted.
        """


class Place(Protocol):
    """A place that holds parts of recordings."""

    @property
    def part_bytes(self) -> int:
        """The maximum size of a part."""

    def prepare(self) -> None:
        """Create the place if it is missing; raise OSError if it cannot be used."""

    def begin(self, path: str, after: str | None) -> Part:
        """Begin a part that follows the one at `after`; raise FileNotFoundError if that one was deleted."""

    def list(self, path: str) -> list[tuple[str, int]]:
        """Return the names in a folder and their sizes, in order; empty if there is no such folder."""

    def read(self, path: str, begin: int, end: int) -> bytes:
        """Return the bytes of a part from `begin` to `end`."""

    def delete(self, path: str) -> None:
        """Delete a folder and its contents, if it exists."""


def place_at(where: str) -> Place:
    """Return the place at a folder's path or a URL.

    Raises:
        ConfigurationError: `fsspec`, or its driver for this kind of URL, is not installed; or the URL is wrong.
    """
    if "://" not in where:
        return Folder(Path(where))
    scheme, _, path = where.partition("://")
    if scheme == "file":
        return Folder(Path(path))
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        needed = f"RECORD_AUDIO is a {scheme}:// URL, which needs fsspec: pip install 'phoneagent[recording]'"
        raise ConfigurationError([needed]) from None
    try:
        filesystem, root = url_to_fs(where)
    except (ImportError, ValueError) as error:
        # An invalid URL may contain a password, so only the message about a missing driver is repeated.
        why = str(error) if isinstance(error, ImportError) else "fsspec does not know it"
        raise ConfigurationError([f"RECORD_AUDIO cannot be a {scheme}:// URL: {why}"]) from None
    return Bucket(filesystem, root)


def shown_place(where: str) -> str:
    """Return a place without the parts of a URL that may be secret."""
    if "://" not in where:
        return str(Path(where).absolute())
    parts = urlsplit(where)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Folder:
    """A folder on this machine, or on a disk that several machines share. Only its owner can read the contents."""

    part_bytes = FOLDER_PART_BYTES

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def prepare(self) -> None:
        self._root.mkdir(mode=0o700, exist_ok=True)
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def begin(self, path: str, after: str | None) -> Part:
        file = self._root / path
        if after is None:
            for folder in (file.parent.parent, file.parent):  # the root itself must exist: a disk may be missing
                folder.mkdir(mode=0o700, exist_ok=True)
        elif not (self._root / after).exists():
            raise FileNotFoundError(errno.ENOENT, "it was deleted")
        return _File(file)

    def list(self, path: str) -> list[tuple[str, int]]:
        try:
            with os.scandir(self._root / path) as found:
                return sorted((each.name, each.stat(follow_symlinks=False).st_size) for each in found)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: str, begin: int, end: int) -> bytes:
        with (self._root / path).open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def delete(self, path: str) -> None:
        folder = self._root / path
        for _ in range(DELETE_TRIES):
            if not folder.exists():
                return
            with suppress(FileNotFoundError):  # another process deletes it as well
                shutil.rmtree(folder)


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0

    def append(self, data: bytes) -> bool:
        flags = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        if creates := not self._size:  # later it must exist: a deleted recording must not come back
            flags |= os.O_CREAT
        with os.fdopen(os.open(self._path, flags, 0o600), "wb", buffering=0) as file:
            file.seek(self._size)  # overwrites the rest of a write that broke off in the middle
            view = memoryview(data)
            while view:
                view = view[file.write(view) or 0 :]
        self._size += len(data)
        return creates


class Bucket:
    """A place that `fsspec` knows: each part is an object."""

    part_bytes = URL_PART_BYTES

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def prepare(self) -> None:
        """Do nothing: object stores have no folders, and the owner makes the bucket."""

    def begin(self, path: str, after: str | None) -> Part:
        with _os_errors():
            if after is not None and not self._filesystem.exists(f"{self._root}/{after}"):
                raise FileNotFoundError(errno.ENOENT, "it was deleted")
            if after is None:
                self._filesystem.makedirs(f"{self._root}/{path.rpartition('/')[0]}", exist_ok=True)
        return _Object(self._filesystem, f"{self._root}/{path}")

    def list(self, path: str) -> list[tuple[str, int]]:
        with _os_errors():
            self._filesystem.invalidate_cache()
            try:
                found = self._filesystem.ls(f"{self._root}/{path}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return []
            return sorted((each["name"].rstrip("/").rpartition("/")[2], each.get("size") or 0) for each in found)

    def read(self, path: str, begin: int, end: int) -> bytes:
        with _os_errors():
            data: bytes = self._filesystem.cat_file(f"{self._root}/{path}", start=begin, end=end)
            return data

    def delete(self, path: str) -> None:
        with _os_errors(), suppress(FileNotFoundError):
            self._filesystem.rm(f"{self._root}/{path}", recursive=True)


class _Object:
    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self._path = path
        self._data = b""

    def append(self, data: bytes) -> bool:
        with _os_errors():
            if self._data and not self._filesystem.exists(self._path):
                raise FileNotFoundError(errno.ENOENT, "it was deleted")
            self._filesystem.pipe_file(self._path, self._data + data)
        self._data += data
        return True  # the object is written anew each time, even if it was deleted after the check


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn the errors of the many drivers into OSError. Messages may contain keys, so only the type is given."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__} from the driver") from error
