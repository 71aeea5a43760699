"""Campaigns: lists of numbers that are called at the right time, each as often as the rules say.

    campaign = await app.campaigns.start("visits", Path("visits.csv"), hours="09:00-18:00", at_once=3)
    campaign = await app.campaigns.get("visits")    # its progress
    await app.campaigns.stop("visits")              # no new calls; those in progress go on

Every process of the app advances every campaign. `store/campaigns.py` keeps them from doing anything twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import msgspec

from phoneagent.calls.campaign_list import check_region, checked, normalized, read_csv, read_rows
from phoneagent.calls.campaign_plan import Rules, after_call, before_call, check_rules, lost_after, read_rules, window
from phoneagent.calls.outbound import Outbound
from phoneagent.errors import DefinitionError, StoreError
from phoneagent.store.campaign_moves import Move
from phoneagent.store.campaign_records import Campaign, CampaignCall, Moved, NewCall
from phoneagent.store.campaigns import CampaignRows
from phoneagent.store.rows import now

log = logging.getLogger("phoneagent.calls.campaigns")

LOOK_SECONDS = 1.0
"""How often to check for calls whose end Twilio reported to another process."""

IDLE_SECONDS = 10.0
"""How often to check for campaigns that another process has started."""

LEAST_SECONDS = 0.02

CHUNK = 200
"""How many lines of a list are checked, or written, at once."""

SPOOL_BYTES = 8 * 1024 * 1024
"""How much of a checked list is kept in memory; a longer list goes to an unnamed temporary file."""

MAX_NAME_CHARS = 100
MAX_PROBLEMS = 20
"""How many lines with problems an error names."""

PAGE = 500

Told = Callable[[int, int], None]
"""A function that takes how many lines were checked, and how many were written."""


class Campaigns:
    """The campaigns of an app. `outbound` makes its calls, and `agents` are the names that a call's agent may have."""

    def __init__(
        self,
        rows: CampaignRows,
        outbound: Outbound,
        *,
        agents: Collection[str],
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rows = rows
        self._outbound = outbound
        self._agents = agents
        self._draining = draining
        self._woken = asyncio.Event()
        self._troubled = False
        self._still: set[str] = set()
        """The campaigns that this process cannot advance; each is logged once."""
        outbound.call_over = self._woken.set

    # --- what code and commands do ------------------------------------------------------------------------------------

    async def start(
        self,
        name: str,
        calls: Path | Iterable[Mapping[str, Any] | NewCall],
        *,
        region: str | None = None,
        strict: bool = False,
        do_not_call: Iterable[str] = (),
        told: Told = lambda checked, written: None,
        rules: Rules | None = None,
        **given: Any,
    ) -> Campaign:
        """Start the campaign of that name, and return it; its calls follow.

        `calls` is a CSV file, or rows with the number in "to"; their other values are the call's context. Lines that
        cannot be called are skipped, and the report lists them; with `strict`, they keep the campaign from starting.
        `region` is the country of numbers without a country code. No campaign ever calls the numbers of `do_not_call`.
        The rules are the fields of `Rules`.

        The same list and rules under the same name are the same campaign: it continues, even after a stop.

        Raises:
            DefinitionError: the list or a rule cannot be used, or another campaign has the name.
            ConfigurationError: there is no number to call from.
            StoreError: the database does not answer. Start it again: nothing is called twice.
        """
        if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME_CHARS or not name.isprintable():
            raise DefinitionError(f"a campaign needs a name of up to {MAX_NAME_CHARS} characters")
        rules = read_rules(given) if rules is None else rules
        check_rules(rules)
        await asyncio.to_thread(check_region, region)  # the first time, it imports large tables
        dial = self._dial_plan(rules)
        await self.never_call(do_not_call, region=region)
        lines = read_csv(calls) if isinstance(calls, Path) else _listed(calls)
        with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            digest = await _spool(spool, checked(lines, region), rules, strict=strict, told=told)
            plan = {"rules": msgspec.to_builtins(rules), "dial": dial}
            campaign = await self._rows.begin(name.strip(), digest, plan)
            if campaign.state == "loading":
                await self._fill(campaign.id, spool, told)
        if campaign.state in ("loading", "stopping", "stopped"):
            await self._rows.run(campaign.id)
        self._woken.set()
        found = await self._rows.find(campaign.id)
        assert found is not None
        return found

    async def get(self, which: str) -> Campaign | None:
        """Return the campaign with this id or name; None if there is none.

        Raises:
            StoreError: the database does not answer.
        """
        return await self._rows.find(which)

    async def latest(self, limit: int = 20) -> list[Campaign]:
        """Return the latest campaigns, newest first.

        Raises:
            StoreError: the database does not answer.
        """
        return await self._rows.latest(limit)

    async def stop(self, which: str) -> Campaign | None:
        """Make no new calls for a campaign, and return it; None if there is none. Calls in progress go on.

        Raises:
            StoreError: the database does not answer, so it is not stopped.
        """
        campaign = await self._rows.find(which)
        if campaign is None:
            return None
        await self._rows.stop(campaign.id)
        return await self._rows.find(campaign.id)

    async def page(self, id: str, *, after: int = -1, limit: int = PAGE) -> list[CampaignCall]:
        """Return the next numbers of a campaign after a line of its list.

        Raises:
            StoreError: the database does not answer.
        """
        return await self._rows.calls(id, after=after, limit=limit)

    async def never_call(self, numbers: Iterable[str], *, region: str | None = None) -> None:
        """Put numbers on the do-not-call list: neither a campaign nor `dial` calls them again.

        Raises:
            DefinitionError: one of them is not a phone number.
            StoreError: not all of them are on the list.
        """
        found = await asyncio.to_thread(_never_called, list(numbers), region)  # a thousand take a tenth of a second
        await self._rows.do_not_call.add(found)

    # --- moving on ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Advance the campaigns until this task is canceled."""
        while True:
            self._woken.clear()
            wait = IDLE_SECONDS
            try:
                if not self._draining():
                    wait = await self.step()
                self._troubled = False
            except StoreError as error:
                log.log(logging.DEBUG if self._troubled else logging.WARNING, "campaigns are paused: %s", error)
                self._troubled = True
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._woken.wait()

    async def step(self) -> float:
        """Advance each campaign once; return in how many seconds to do so again.

        Raises:
            StoreError: the database does not answer.
        """
        wait = IDLE_SECONDS
        for campaign in await self._rows.active():
            try:
                moved = await self._move(campaign)
            except (DefinitionError, KeyError, TypeError) as error:
                if campaign.id not in self._still:
                    self._still.add(campaign.id)
                    words = "campaign %s was started by another version of the app: it stands still here (%s)"
                    log.error(words, campaign.id, error)
                continue
            except StoreError as error:
                if error.retry:
                    raise
                log.error("campaign %s was not moved on: %s", campaign.id, error)
                continue
            except Exception:  # one bad campaign must not stop the others
                log.exception("internal error in phoneagent: campaign %s was not moved on", campaign.id)
                continue
            wait = min(wait, _wait(moved))
        return wait

    async def _move(self, campaign: Campaign) -> Moved | None:
        rules = read_rules(campaign.plan["rules"])
        dial: Mapping[str, Any] = campaign.plan["dial"]
        if campaign.state == "running" and dial["agent"] is not None and dial["agent"] not in self._agents:
            raise DefinitionError(f"no agent here is named {dial['agent']!r:.80}")  # another agent would get its calls
        moment = now()
        how = Move(
            after_call=lambda call: after_call(rules, call, moment),
            before_call=lambda call, barred: before_call(rules, call.to, moment, barred=barred),
            dial=dial,
            at_once=rules.at_once,
            calls_per_second=rules.calls_per_second,
            lost_after=lost_after(rules, int(dial["time_limit"])),
            moment=moment,
        )
        moved = await self._rows.move(campaign.id, how)
        if moved is not None and moved.started:
            self._outbound.dialer.wake()
        return moved

    # --- filling ------------------------------------------------------------------------------------------------------

    def _dial_plan(self, rules: Rules) -> dict[str, Any]:
        names = ("agent", "from_", "first", "on_machine", "message", "timeout", "time_limit")
        options = {name: getattr(rules, name) for name in names}
        try:
            return self._outbound.plan(agents=self._agents, context=None, **options)
        except DefinitionError as error:
            raise DefinitionError(str(error).replace("dial has", "the campaign has", 1)) from None

    async def _fill(self, id: str, spool: IO[bytes], told: Told) -> None:
        written = 0
        lines = iter(spool)
        while some := [_DECODER.decode(line) for line in islice(lines, CHUNK)]:
            await self._rows.fill(id, some)
            written += len(some)
            told(written, written)


_DECODER = msgspec.json.Decoder(NewCall)


def _listed(calls: Iterable[Mapping[str, Any] | NewCall]) -> Iterator[NewCall]:
    rows = list(calls)
    if all(isinstance(each, NewCall) for each in rows):
        return iter([each for each in rows if isinstance(each, NewCall)])
    return read_rows([each for each in rows if isinstance(each, Mapping)])


def _never_called(numbers: Sequence[str], region: str | None) -> list[str]:
    found = []
    for count, text in enumerate(numbers, 1):
        number, problem = normalized(text, region)
        if not number:
            raise DefinitionError(f"number {count} of the do-not-call list is unclear: {problem}")
        found.append(number)
    return found


async def _spool(spool: IO[bytes], calls: Iterator[NewCall], rules: Rules, *, strict: bool, told: Told) -> str:
    """Write the checked lines of a list to a file; return the digest of the list and the rules.

    Raises:
        DefinitionError: there are no lines, or some have problems and the list is `strict`.
    """
    moment = now()
    earliest = moment if rules.start_at is None else max(moment, rules.start_at)
    digest = hashlib.sha256(msgspec.json.encode(rules, order="deterministic"))
    problems: list[str] = []
    count = 0

    def some() -> Sequence[NewCall]:
        found = []
        for each in islice(calls, CHUNK):
            digest.update(msgspec.json.encode(each, order="deterministic") + b"\n")
            due = each if each.problem is not None else _due(each, window(earliest, each.to, rules))
            spool.write(msgspec.json.encode(due) + b"\n")
            found.append(due)
        return found

    while chunk := await asyncio.to_thread(some):
        count += len(chunk)
        problems += [f"line {each.position}: {each.problem}" for each in chunk if each.problem is not None]
        del problems[MAX_PROBLEMS if strict else 0 :]
        told(count, 0)
    if not count:
        raise DefinitionError("the list has no numbers")
    if strict and problems:
        raise DefinitionError("the list is refused, and nothing is called:\n" + "\n".join(problems))
    spool.seek(0)
    return digest.hexdigest()


def _due(call: NewCall, found: Any) -> NewCall:
    why = found if isinstance(found, str) else None
    due_at = None if why is not None else found[0]
    return NewCall(position=call.position, to=call.to, context=call.context, due_at=due_at, problem=why)


def _wait(moved: Moved | None) -> float:
    """Return in how many seconds to advance a campaign again."""
    if moved is None:
        return LOOK_SECONDS
    if moved.more:
        return 0.0
    due = IDLE_SECONDS if moved.next_at is None else (moved.next_at - now()).total_seconds()
    return max(min(due, LOOK_SECONDS if moved.calling else IDLE_SECONDS), LEAST_SECONDS)


async def report(page: Callable[..., Any], id: str) -> AsyncIterator[CampaignCall]:
    """Yield all numbers of a campaign in the order of its list; `page` is `CampaignRows.calls`."""
    after = -1
    while found := await page(id, after=after, limit=PAGE):
        for each in found:
            yield each
        after = found[-1].position
