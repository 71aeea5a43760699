"""`phoneagent sim call`: a Twilio phone, with a caller that says given lines, for any server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urljoin, urlsplit

import typer
from rich.console import Console
from rich.text import Text

from phoneagent.cli.failures import fail
from phoneagent.cli.overheard import NO_EAR, overheard, ready_ear
from phoneagent.demo.report import plain
from phoneagent.protocol.wav import WavError, ulaw_of_wav
from phoneagent.sim.speech import caller_voice
from phoneagent.sim.twilio.phone import ACCOUNT_SID, CALLED, CALLER, CallFailed, Line, Phone
from phoneagent.sim.twilio.report import call_report, failed_report
from phoneagent.sim.twilio.rest import TwilioRest

ANSWER_SECONDS = 20.0
"""How long the caller waits for an answer."""

GREETED_SECONDS = 3.0
"""How long the caller waits for the agent to speak after a greeting by TwiML, before taking the turn."""

MAX_SAID_SECONDS = 3600.0
"""The longest recording that the caller plays: an hour takes several times the memory of its samples."""

RING_SECONDS = 600.0
"""How long --answer waits for the server to make a call."""

MAX_ANSWER_SECONDS = 120.0
"""How long the caller listens to one answer before giving up."""

VOICE_PATH = "/twilio/voice"
"""The path of a phoneagent app's voice webhook."""

GOODBYE_MS = 5000
"""The silence after which a caller with nothing more to say hangs up, in milliseconds."""

POLL_SECONDS = 0.05

_UNREACHED_STREAM = frozenset({31901, 31902, 31910, 31920, 31922})
"""The alerts of a Stream whose url does not lead to the server."""

_ENDS = {
    "agent": "the agent's side closed it",
    "caller": "the caller hung up",
    "line": "the connection broke",
    "error": "the server broke a rule",
}


@dataclass(frozen=True, slots=True)
class _Words:
    """A line to say, and how it is shown. `text` is empty if the line is a recording."""

    shown: str
    text: str
    audio: bytes


@dataclass(frozen=True, slots=True)
class _Plan:
    """The caller's actions, in order."""

    words: list[_Words]
    pause_seconds: float | None
    barge_in_after_ms: float | None
    dtmf: str | None
    hang_up_after_seconds: float | None
    answer: bool


_WebhookUrl = Annotated[
    str, typer.Argument(help="The server's voice webhook, like http://127.0.0.1:8000/twilio/voice.")
]
_AuthToken = Annotated[
    str | None, typer.Option(envvar="TWILIO_AUTH_TOKEN", help="Sign every request with this Twilio auth token.")
]
_Say = Annotated[
    list[str] | None, typer.Option(metavar="TEXT|FILE.wav", help="A line for the caller to say. Repeatable.")
]
_AfterAgent = Annotated[
    bool, typer.Option("--after-agent", help="Say each line after the agent has spoken and is silent. The default.")
]
_Pause = Annotated[float | None, typer.Option(min=0, help="Instead, wait this many seconds before each line.")]
_BargeInAfter = Annotated[
    float | None, typer.Option(min=0, help="Say the second line after this many ms of the agent's answer.")
]
_Dtmf = Annotated[str | None, typer.Option(help="Keys to press after the last line, like 12#.")]
_HangUpAfter = Annotated[float | None, typer.Option(min=0, help="Hang up this many seconds into the call.")]
_PublicUrl = Annotated[str | None, typer.Option(help="The server's public address, if WEBHOOK_URL is a local one.")]
_FallbackUrl = Annotated[
    str | None, typer.Option(help="The webhook to use when the server fails, like a Twilio number's fallback.")
]
_Delay = Annotated[float, typer.Option(min=0, help="The delay of the line in each direction, in ms.")]
_Report = Annotated[Path | None, typer.Option(help="The file for a report of the call, as JSON.")]
_Wav = Annotated[
    Path | None, typer.Option(help="The file for a stereo recording: caller on the left, what they heard on the right.")
]
_Caller = Annotated[str, typer.Option("--from", help="The caller: a number, anonymous, sip:alice@example.com, …")]
_Called = Annotated[str, typer.Option("--to", help="The called number.")]
_Param = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A form field of the webhook, like SipHeader_X-Id=7. Repeatable."),
]
_RestPort = Annotated[
    int | None, typer.Option(help="Serve Twilio's REST API on this port of 127.0.0.1.", min=0, max=65535)
]
_AccountSid = Annotated[
    str, typer.Option(envvar="TWILIO_ACCOUNT_SID", help="The account of the call and of the REST API.")
]
_ApiKey = Annotated[str | None, typer.Option(metavar="SID:SECRET", help="An API key that the REST API also accepts.")]
_Answer = Annotated[
    bool, typer.Option("--answer", help="Wait for the server to make a call through the REST API, and answer it.")
]


def call(
    webhook_url: _WebhookUrl,
    auth_token: _AuthToken = None,
    say: _Say = None,
    after_agent: _AfterAgent = False,
    pause: _Pause = None,
    barge_in_after: _BargeInAfter = None,
    dtmf: _Dtmf = None,
    hang_up_after: _HangUpAfter = None,
    public_url: _PublicUrl = None,
    fallback_url: _FallbackUrl = None,
    delay: _Delay = 0,
    report: _Report = None,
    wav: _Wav = None,
    caller: _Caller = CALLER,
    called: _Called = CALLED,
    param: _Param = None,
    rest_port: _RestPort = None,
    account_sid: _AccountSid = ACCOUNT_SID,
    api_key: _ApiKey = None,
    answer: _Answer = False,
) -> None:
    """Call a server as Twilio would, say the given lines, and check all of Twilio's rules.

    A server that uses Twilio's REST API finds it at the address printed for --rest-port. Point Twilio's SDKs at
    it with `client.api.base_url = "http://127.0.0.1:PORT"` (Python) or `client.api.baseUrl = …` (Node).

    With the extra `demo`, what the agent said is written out.

    Without --pause, the caller says each line after the agent has spoken and then been silent for 0.7 s. After the last
    line, the caller listens to the whole answer, and hangs up after 5 s of silence if the agent does not. The exit
    status is 1 if the call failed, a line could not be said, or the server broke a rule.
    """
    if after_agent and pause is not None:
        raise typer.BadParameter("give either --after-agent or --pause")
    if dtmf is not None and set(dtmf) - set("0123456789ABCD*#"):
        raise typer.BadParameter("--dtmf takes the keys 0-9, A-D, * and #")
    if barge_in_after is not None and len(say or ()) < 2:
        raise typer.BadParameter("--barge-in-after is for the second line; give --say twice")
    rest = _rest(rest_port, account_sid, auth_token, api_key, called, answer=answer)
    plan = _Plan([_voiced(each) for each in say or []], pause, barge_in_after, dtmf, hang_up_after, answer)
    try:
        phone = Phone(
            webhook_url,
            auth_token=auth_token,
            public_url=public_url,
            account_sid=account_sid,
            caller=caller,
            called=called,
            extra_params=dict(_split(each, "=", "--param", "NAME=VALUE") for each in param or []),
            voice_fallback_url=fallback_url,
            delay_ms=delay,
            rest=rest,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    show = _Show(Console(highlight=False, emoji=False), _hint(webhook_url, public_url, auth_token))
    if not asyncio.run(_session(phone, rest, plan, show, report, wav)):
        raise typer.Exit(1)


def _rest(
    port: int | None, account_sid: str, auth_token: str | None, api_key: str | None, number: str, *, answer: bool
) -> TwilioRest | None:
    """Return the account's REST API, which has the called number; None without a port for it."""
    if port is None and (answer or api_key is not None):
        option = "--answer" if answer else "--api-key"
        raise typer.BadParameter(f"{option} needs the REST API, which is not served; give --rest-port")
    if port is None:
        return None
    if auth_token is None:
        raise typer.BadParameter("--rest-port needs the password of its clients; give --auth-token")
    key = _split(api_key, ":", "--api-key", "SID:SECRET") if api_key else None
    rest = TwilioRest(account_sid=account_sid, auth_token=auth_token, api_key=key, port=port)
    rest.add_number(number)
    return rest


def _split(text: str, separator: str, option: str, shape: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name:
        raise typer.BadParameter(f"{option} takes {shape}")
    return name, value


def _hint(webhook_url: str, public_url: str | None, auth_token: str | None) -> Callable[[CallFailed], str | None]:
    """Return the function that names the option that a failed call may have lacked."""

    def hint(failure: CallFailed) -> str | None:
        if failure.status in {401, 403} and auth_token is None:
            return "nothing was signed: if the server checks signatures, give its Twilio auth token with --auth-token"
        if failure.status == 404 and not urlsplit(webhook_url).path.endswith(VOICE_PATH):
            return f"nothing is at that path: phoneagent answers at {urljoin(webhook_url, VOICE_PATH)}"
        if public_url is not None:
            return None
        if failure.status in {401, 403}:
            return (
                f"the signature is for {webhook_url}: if the server checks it for its public address, give that one "
                "with --public-url; connections still go to WEBHOOK_URL"
            )
        if failure.code in _UNREACHED_STREAM:
            return (
                "if the Stream's url is a public address of this server, give that address with --public-url, like "
                "https://agent.example; connections still go to WEBHOOK_URL"
            )
        return None

    return hint


def _voiced(words: str) -> _Words:
    """Turn a --say into audio: read it if it names a WAV file, speak it otherwise."""
    if not words.lower().endswith(".wav"):
        return _Words(words, words, caller_voice().render(words))
    try:
        return _Words(Path(words).name, "", ulaw_of_wav(Path(words).read_bytes(), max_seconds=MAX_SAID_SECONDS))
    except (OSError, WavError) as error:
        raise typer.BadParameter(f"--say {words}: {error}") from None


async def _session(
    phone: Phone, rest: TwilioRest | None, plan: _Plan, show: _Show, report: Path | None, wav: Path | None
) -> bool:
    """Make the call, while serving the REST API if there is one, and return whether all went well."""
    if rest is None:
        return await _call(phone, plan, show, report, wav)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(rest)
        except OSError as error:
            show.fail(f"--rest-port cannot be used: {error.strerror or error}")
            return False
        show.note(f"Twilio's REST API: {rest.url} in place of https://api.twilio.com")
        went_well = await _call(phone, plan, show, report, wav)
    for violation in rest.violations:
        show.fail(f"the server's request to the REST API: {violation}")
    return went_well and not rest.violations


async def _call(phone: Phone, plan: _Plan, show: _Show, report: Path | None, wav: Path | None) -> bool:
    """Make or take the call and return whether all went well."""
    problem: str | None = None
    ear = await ready_ear()
    try:
        async with phone.answer(timeout=RING_SECONDS) if plan.answer else phone.dial() as line:
            show.say(line, "phone", f"the stream is up, {line.stream_sid}")
            if ear is None:
                show.note(NO_EAR)
            watching = asyncio.create_task(show.watch(line))
            try:
                async with overheard(line, ear, partial(show.say, line, "agent")):
                    problem = await _converse(line, plan, show)
                    await line.hang_up()
            finally:
                watching.cancel()
    except CallFailed as failure:
        show.fail_call(failure)
        if report is not None:
            _write(report, json.dumps(failed_report(failure), indent=2) + "\n")
        return False
    except TimeoutError as error:  # from --answer
        show.fail(str(error))
        return False
    if line.ended_by in {"line", "error"}:
        problem = (
            problem or f"the call did not end properly: {line.ended_by}, close code {line.close_code} of the socket"
        )
    if report is not None:
        _write(report, json.dumps(call_report(line), indent=2) + "\n")
    if wav is not None:
        _write(wav, line.recording())
    show.end(line, problem)
    return problem is None and not line.violations


async def _converse(line: Line, plan: _Plan, show: _Show) -> str | None:
    """Carry out the plan and return what went wrong, if anything did."""
    step = "the greeting was heard"
    try:
        async with asyncio.timeout(plan.hang_up_after_seconds) as limit:
            for index, words in enumerate(plan.words):
                step = f"line {index + 1} was said"
                if index == 1 and plan.barge_in_after_ms is not None:
                    await line.wait_for_agent(ms=max(plan.barge_in_after_ms, 1), timeout=ANSWER_SECONDS)
                else:
                    await _turn(line, plan)
                show.say(line, "caller", words.shown)
                await line.say(words.audio, words.text)
            if plan.dtmf:
                step = "the keys were pressed"
                await _turn(line, plan)
                show.say(line, "caller", f"presses {plan.dtmf}")
                await line.press(plan.dtmf)
            step = "the agent was heard out"
            await _hear_out(line)
    except CallFailed:
        return f"the call ended (by {line.ended_by}) before {step}"
    except TimeoutError as error:
        return None if limit.expired() else f"{error}; before {step}"
    return None


async def _turn(line: Line, plan: _Plan) -> None:
    """Wait until it is the caller's turn."""
    if plan.pause_seconds is not None:
        await asyncio.sleep(plan.pause_seconds)
        return
    if await _agent_speaks(line):
        await line.wait_for_silence(timeout=MAX_ANSWER_SECONDS)


async def _agent_speaks(line: Line) -> bool:
    """Wait for the agent to speak; return False if TwiML has greeted the caller and the agent adds nothing."""
    greeted = bool(line.announcements) and not line.speech
    try:
        await line.wait_for_agent(timeout=GREETED_SECONDS if greeted else ANSWER_SECONDS)
    except TimeoutError:
        if not greeted:
            raise
        return False
    return True


async def _hear_out(line: Line) -> None:
    """Wait for the last answer, and then for the agent to hang up or for a long silence."""
    try:
        if await _agent_speaks(line):
            await line.wait_for_silence(ms=GOODBYE_MS, timeout=MAX_ANSWER_SECONDS)
    except CallFailed:
        await line.wait_ended(timeout=ANSWER_SECONDS)


class _Show:
    """The call in the terminal, one line for each event."""

    def __init__(self, console: Console, hint: Callable[[CallFailed], str | None]) -> None:
        self._console = console
        self._hint = hint

    def note(self, what: str) -> None:
        self._print(Text(what, style="dim"))

    def say(self, line: Line, name: str, what: str) -> None:
        colour = {"caller": "cyan", "agent": "green", "violation": "red"}.get(name, "dim")
        text = Text(f"{line.duration_ms / 1000:6.1f} s  ", style="dim")
        self._print(text.append(f"{name:<9}", style=colour).append(plain(what), style="default"))

    def fail(self, what: str) -> None:
        self._print(Text(plain(what), style="red"))

    def fail_call(self, failure: CallFailed) -> None:
        """Print why a call failed, what TwiML did before, and which option may help."""
        self.fail(f"the call failed: {failure}")
        if failure.verbs:
            self.fail(f"its TwiML was carried out up to: {'; '.join(failure.verbs)}")
        if hint := self._hint(failure):
            self.fail(hint)

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    async def watch(self, line: Line) -> None:
        """Print what the agent does, until canceled."""
        talking = False
        clears, violations, streams, announced = 0, 0, 1, 0
        while True:
            for each in line.announcements[announced:]:
                self.say(line, "agent", f"says by TwiML: {each.text}" if each.text else "plays a file by TwiML")
            announced = len(line.announcements)
            streams = self._streams(line, streams)
            if line.playing != talking:
                talking = line.playing
                heard_ms = line.heard[-1].end_ms - line.heard[-1].start_ms if line.heard else 0.0
                self.say(line, "agent", "speaks" if talking else f"is silent, after {heard_ms / 1000:.1f} s")
            for clear in line.clears[clears:]:
                dropped_ms = (clear.received_to - clear.heard_to) / 8
                self.say(line, "phone", f"clear: {dropped_ms / 1000:.1f} s of the agent's audio dropped unheard")
            for violation in line.violations[violations:]:
                self.say(line, "violation", violation)
            clears, violations = len(line.clears), len(line.violations)
            await asyncio.sleep(POLL_SECONDS)

    def _streams(self, line: Line, shown: int) -> int:
        """Print the starts and ends of streams from number `shown` on, and return how many there are by now."""
        happened = [each for stream in line.streams for each in (stream.start_ms, stream.end_ms) if each is not None]
        for index in range(shown, len(happened)):
            number = index // 2 + 1
            if index % 2:
                self.say(line, "phone", f"stream {number} ended: {_ENDS[line.streams[number - 1].ended_by or 'agent']}")
            else:
                self.say(line, "phone", f"stream {number} after {line.gaps_ms[number - 2] / 1000:.1f} s")
        return len(happened)

    def end(self, line: Line, problem: str | None) -> None:
        """Print the summary."""
        streams = f", after {len(line.streams)} streams" if len(line.streams) > 1 else ""
        self.say(line, "phone", f"the call is over, ended by the {line.ended_by}{streams}")
        if problem:
            self.fail(problem)
        if line.violations:
            self.fail(f"the server broke {len(line.violations)} of Twilio's rules:")
            for violation in line.violations:
                self.fail(f"  {violation}")


def _write(path: Path, content: str | bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        fail(f"{path} cannot be written ({error.strerror}): name another file")
