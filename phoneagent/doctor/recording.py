"""Checks of call recording: the place at RECORD_AUDIO, and whether callers are told."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

from phoneagent.agent.agent import Agent, team_of
from phoneagent.doctor.checks import Check, failed, note, ok
from phoneagent.errors import ConfigurationError
from phoneagent.settings import Settings
from phoneagent.store.audio_places import Place
from phoneagent.store.recordings import Recordings

PLACE_SECONDS = 20.0
"""How long the place may take to store a byte."""


async def check_recording(settings: Settings, agent: Agent | None) -> list[Check]:
    """Check that recordings can be written and that callers are told. Return no checks if nothing is recorded."""
    recording = [] if agent is None else [each for each in team_of(agent).values() if each.recording is not None]
    recordings = Recordings.from_settings(settings)
    if recordings is None:
        names = ", ".join(each.name for each in recording)
        unset = f"{names} should be recorded, and RECORD_AUDIO is not set: name a folder or a URL"
        return [note("recording", unset)] if recording else []
    found = [await _check_place(recordings)]
    silent = [each.name for each in recording if each.recording and each.recording.start and not each.recording.consent]
    if silent:
        remedy = "where the law wants that, give Recording(consent=…)"
        found.append(note("consent", f"{', '.join(silent)} records without telling callers: {remedy}"))
    return found


async def _check_place(recordings: Recordings) -> Check:
    try:
        async with asyncio.timeout(PLACE_SECONDS):
            await asyncio.to_thread(_keep_a_byte, recordings.place)
    except ConfigurationError as error:
        return failed("recording", "; ".join(error.problems))
    except TimeoutError:
        return failed("recording", f"{recordings.shown} accepted no data within {PLACE_SECONDS:g} s: is it reachable?")
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        return failed("recording", f"{recordings.shown} cannot be written to ({why}): check RECORD_AUDIO")
    return ok("recording", f"{recordings.shown} can be written to")


def _keep_a_byte(place: Place) -> None:
    folder = f"doctor-{secrets.token_hex(8)}"
    place.prepare()
    try:
        place.begin(f"{folder}/part.ulaw", None).append(b"\xff")
        if not place.list(folder):
            raise OSError("it kept nothing")
    finally:
        with suppress(OSError):
            place.delete(folder)
