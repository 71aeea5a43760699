"""The diversion of a number's calls to this machine, with the number's old webhook in a file.

The file is written before the number is changed and removed after it is restored. If the process dies in between, the
next start restores the number.
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
from phoneagent.twilio.pointing import find_free
from phoneagent.twilio.rest import PhoneNumbers, Webhook

GONE = 20404


class Diversion:
    """A number that points somewhere else for a while. The file in `folder` says what to restore."""

    def __init__(self, numbers: PhoneNumbers, folder: Path) -> None:
        self._numbers = numbers
        self._file = folder / "webhook.json"

    async def divert(self, number: str, webhook: Webhook) -> None:
        """Send the calls of `number` (E.164) to `webhook`.

        Raises:
            TelephonyError: the account lacks the number, something else takes its calls, or Twilio does not answer.
            DefinitionError: the folder cannot be written to; the number is unchanged.
        """
        found = await find_free(self._numbers, number)
        if found.webhook != webhook:
            self._remember({"number": found.sid, "before": asdict(found.webhook), "ours": asdict(webhook)})
            await self._numbers.set_webhook(found.sid, webhook)

    async def restore(self) -> bool:
        """Restore the webhook in the file, unless the number's was changed since; return whether it was restored.

        Raises:
            TelephonyError: Twilio does not answer; the file stays.
            DefinitionError: the file cannot be read.
        """
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            sid, before, ours = str(content["number"]), Webhook(**content["before"]), Webhook(**content["ours"])
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):
            raise DefinitionError(
                f"{self._file} cannot be read: check your number's webhook in the Twilio console, then delete the file"
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
            raise DefinitionError(f"{self._file} cannot be written ({error.strerror}): use another folder") from None


def _address(webhook: Webhook) -> str:
    # The part after the # is not compared, because Twilio may spell it differently.
    return webhook.voice_url.partition("#")[0]


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Create the folder and lock it while the context lasts.

    Raises:
        DefinitionError: `phoneagent dev` already runs here, or the folder cannot be created.
    """
    try:
        folder.mkdir(exist_ok=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        file = (folder / "lock").open("w")
    except OSError as error:
        raise DefinitionError(f"{folder} cannot be created ({error.strerror}): use another folder") from None
    with file:
        _lock(file)
        yield


def _lock(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such lock: two runs at once are not detected
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DefinitionError("`phoneagent dev` already runs in this folder: stop it first") from None
