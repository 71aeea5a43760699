"""A number's calls, sent to this machine for a while, and where they went before, remembered on disk.

The file is written before the number is touched and removed after it was put back, so that whatever happens in between,
the next start finds out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from phoneagent.errors import DefinitionError, TelephonyError
from phoneagent.server import VOICE_PATH
from phoneagent.twilio.rest import PhoneNumbers, Webhook

STATUS_PATH = "/twilio/status"
RETRY = "#rc=3&rp=ct,5xx"
"""Tells Twilio to ask again while a changed file restarts the app; Twilio keeps what is after the # for itself."""

GONE = 20404


def webhook_of(public_url: str) -> Webhook:
    """Return the webhook of an app at that address."""
    voice = f"{public_url}{VOICE_PATH}{RETRY}"
    return Webhook(voice_url=voice, voice_fallback_url=voice, status_callback=f"{public_url}{STATUS_PATH}")


class Diversion:
    """Points a number somewhere else and back; `folder` holds what has to be remembered."""

    def __init__(self, numbers: PhoneNumbers, folder: Path) -> None:
        self._numbers = numbers
        self._file = folder / "webhook.json"

    async def divert(self, number: str, webhook: Webhook) -> None:
        """Send the calls of `number` (E.164) to `webhook`.

        Raises:
            TelephonyError: it is not ours, something else takes its calls, or Twilio cannot be asked.
            DefinitionError: the folder cannot be written to; then the number is as it was.
        """
        found = await self._numbers.find(number)
        if found.overridden_by is not None:
            raise TelephonyError(
                f"{found.overridden_by} takes the number's calls, whatever its webhook: remove that in the console"
            )
        if found.webhook != webhook:
            self._remember({"number": found.sid, "before": asdict(found.webhook), "ours": asdict(webhook)})
            await self._numbers.set_webhook(found.sid, webhook)

    async def restore(self) -> bool:
        """Put back the webhook that is remembered, unless somebody has changed it since; returns whether it was.

        Raises:
            TelephonyError: Twilio cannot be asked; it stays remembered.
            DefinitionError: what is remembered cannot be read.
        """
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            sid, before, ours = str(content["number"]), Webhook(**content["before"]), Webhook(**content["ours"])
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):
            raise DefinitionError(
                f"{self._file} cannot be read: see where your number points in the Twilio console, then delete the file"
            ) from None
        try:
            changed = _address(await self._numbers.webhook(sid)) == _address(ours)
            if changed:
                await self._numbers.set_webhook(sid, before)
        except TelephonyError as error:
            if error.code != GONE:
                raise
            changed = False
        self._file.unlink(missing_ok=True)
        return changed

    def _remember(self, content: object) -> None:
        try:
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(content, indent=2), encoding="utf-8")
            os.replace(fresh, self._file)
        except OSError as error:
            raise DefinitionError(
                f"{self._file} cannot be written ({error.strerror}): run it in another folder"
            ) from None


def _address(webhook: Webhook) -> str:
    # Not all of the webhook: Twilio may spell what is after the # in its own way.
    return webhook.voice_url.partition("#")[0]


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Make the folder, and have it to oneself: another process that has it refuses.

    Raises:
        DefinitionError: `phoneagent dev` runs here already, or the folder cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        file = (folder / "lock").open("w")
    except OSError as error:
        raise DefinitionError(f"{folder} cannot be made ({error.strerror}): run it in another folder") from None
    with file:
        _lock(file)
        yield


def _lock(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two at once are the user's own affair
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DefinitionError("`phoneagent dev` already runs in this folder: end that one first") from None
