"""The queries that read the records of calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.events import Cost, Pause, Turn, Usage
from phoneagent.store.filters import CallFilter
from phoneagent.store.records import (
    AnswerRecord,
    CallDetails,
    CallRecord,
    Highlights,
    MessageRecord,
    RecordingRecord,
    SoFar,
    Standing,
    StreamRecord,
    ToolRecord,
    TransferredRecord,
    UsageRecord,
    ms_between,
)
from phoneagent.store.schema import answers, call_transfers, calls, messages, next_steps, streams, tools, turns, usage
from phoneagent.store.steps import from_row, pending_of

MAX_PARAMETERS = 10_000
"""The maximum number of parameters in one statement: below the limit of either database."""


async def read_standing(connection: AsyncConnection, call_sid: str) -> Standing:
    """Read the current state of a call, in a single query: after a crash, all calls of a process ask for it at once."""
    return Standing(**await _standing_values(connection, call_sid))


async def read_so_far(connection: AsyncConnection, call_sid: str) -> SoFar:
    """Read the current state of a call, and what was said and done in it."""
    standing = await _standing_values(connection, call_sid)
    start = standing["started_at"]
    if start is None:
        return SoFar(**standing)
    return SoFar(
        **standing,
        turns=await _turns(connection, call_sid, start),
        messages=await _messages(connection, call_sid, start),
        tools=await _tools(connection, call_sid, start),
        cost=(await _costs(connection, [call_sid])).get(call_sid),
        recording=_recording(await connection.scalar(sa.select(calls.c.recording).where(calls.c.sid == call_sid))),
    )


async def _standing_values(connection: AsyncConnection, call_sid: str) -> dict[str, Any]:
    values = dict((await connection.execute(_STANDING, {"sid": call_sid})).mappings().one())
    kind, data = values.pop("kind"), values.pop("data")
    step = None if kind is None else from_row(kind, data)
    return {**values, "step": step, "pending": pending_of(values["pending"])}


def _standing_query() -> sa.Select[Any]:
    asked = sa.select(sa.bindparam("sid", type_=sa.Text()).label("sid")).subquery()
    of_latest = sa.or_(
        next_steps.c.stream_sid == "",
        next_steps.c.stream_sid == calls.c.stream_sid,
        sa.func.coalesce(calls.c.stream_sid, "") == "",  # without a record, no stream is known to be the latest
    )
    found = asked.outerjoin(calls, calls.c.sid == asked.c.sid)
    found = found.outerjoin(next_steps, (next_steps.c.call_sid == asked.c.sid) & of_latest)
    of_call = (calls.c.stream_sid, calls.c.started_at, calls.c.ended_by, calls.c.state, calls.c.pending)
    return (
        sa.select(*of_call, next_steps.c.kind, next_steps.c.data)
        .select_from(found)
        .order_by(next_steps.c.at.desc())
        .limit(1)
    )


_STANDING = _standing_query()


async def read_calls(
    connection: AsyncConnection,
    limit: int,
    after: tuple[datetime, str] | None = None,
    ended: bool | None = None,
    without: Collection[str] = (),
    only: CallFilter | None = None,
) -> list[CallRecord]:
    """Read the latest calls, newest first (see `Store.calls`)."""
    query = sa.select(calls).order_by(calls.c.started_at.desc(), calls.c.sid).limit(limit)
    if after is not None:
        started_at, call_sid = after
        same_moment = (calls.c.started_at == started_at) & (calls.c.sid > call_sid)
        query = query.where((calls.c.started_at < started_at) | same_moment)
    if ended is not None:
        query = query.where(calls.c.ended_at.is_not(None) if ended else calls.c.ended_at.is_(None))
    if without:
        query = query.where(calls.c.sid.not_in(list(without)[:MAX_PARAMETERS]))
    if only is not None:
        query = query.where(*only.conditions())
    rows = (await connection.execute(query)).all()
    costs = await _costs(connection, [row.sid for row in rows])
    return [CallRecord(**_call_values(row), cost=costs.get(row.sid)) for row in rows]


async def read_call(connection: AsyncConnection, call_sid: str) -> CallDetails | None:
    """Read a call; None if it is not recorded."""
    row = (await connection.execute(sa.select(calls).where(calls.c.sid == call_sid))).one_or_none()
    if row is None:
        return None
    start: datetime = row.started_at
    used = _used(await _rows_of_call(connection, usage, call_sid, usage.c.number))
    return CallDetails(
        **_call_values(row),
        cost=sum((each.cost for each in used[1:]), used[0].cost) if used else None,
        usage=used,
        streams=tuple(
            StreamRecord(stream_sid=each.stream_sid, at_ms=ms_between(start, each.started_at))
            for each in await _rows_of_call(connection, streams, call_sid, streams.c.started_at)
        ),
        turns=await _turns(connection, call_sid, start),
        messages=await _messages(connection, call_sid, start),
        tools=await _tools(connection, call_sid, start),
        answers=tuple(
            AnswerRecord(at_ms=ms_between(start, each.at), latency_ms=each.latency_ms)
            for each in await _rows_of_call(connection, answers, call_sid, answers.c.at)
        ),
        transfers=tuple(
            TransferredRecord(
                at_ms=ms_between(start, each.at), to_name=each.to_name, outcome=each.outcome, warm=each.warm
            )
            for each in await _rows_of_call(connection, call_transfers, call_sid, call_transfers.c.at)
        ),
    )


async def _costs(connection: AsyncConnection, call_sids: Sequence[str]) -> dict[str, Cost]:
    """Read the cost of each of these calls, except those without any reported usage."""
    guessed = sa.func.max(sa.case((usage.c.at_least, 1), else_=0))
    query = sa.select(usage.c.call_sid, sa.func.sum(usage.c.nano_usd), guessed).group_by(usage.c.call_sid)
    costs: dict[str, Cost] = {}
    for first in range(0, len(call_sids), MAX_PARAMETERS):
        some = query.where(usage.c.call_sid.in_(call_sids[first : first + MAX_PARAMETERS]))
        for call_sid, nano, at_least in await connection.execute(some):
            costs[call_sid] = Cost(_usd(nano), bool(at_least))
    return costs


async def read_highlights(connection: AsyncConnection, call_sids: Sequence[str]) -> dict[str, Highlights]:
    """Read what a list shows of each of these calls besides its record."""
    agents: dict[str, list[str]] = {sid: [] for sid in call_sids}
    latencies: dict[str, list[int]] = {sid: [] for sid in call_sids}
    first_spoke = sa.func.min(turns.c.started_at)
    spoke = sa.select(turns.c.call_sid, turns.c.agent).where(turns.c.agent.is_not(None))
    spoke = spoke.group_by(turns.c.call_sid, turns.c.agent).order_by(first_spoke)
    answered = sa.select(answers.c.call_sid, answers.c.latency_ms).order_by(answers.c.at)
    for first in range(0, len(call_sids), MAX_PARAMETERS):
        some = call_sids[first : first + MAX_PARAMETERS]
        for call_sid, agent in await connection.execute(spoke.where(turns.c.call_sid.in_(some))):
            agents[call_sid].append(agent)
        for call_sid, latency_ms in await connection.execute(answered.where(answers.c.call_sid.in_(some))):
            latencies[call_sid].append(latency_ms)
    return {sid: Highlights(agents=tuple(agents[sid]), latencies_ms=tuple(latencies[sid])) for sid in call_sids}


async def _turns(connection: AsyncConnection, call_sid: str, start: datetime) -> tuple[Turn, ...]:
    return tuple(_turn(each, start) for each in await _rows_of_call(connection, turns, call_sid, turns.c.started_at))


async def _messages(connection: AsyncConnection, call_sid: str, start: datetime) -> tuple[MessageRecord, ...]:
    return tuple(
        MessageRecord(role=each.role, text=each.text, at_ms=ms_between(start, each.at))
        for each in await _rows_of_call(connection, messages, call_sid, messages.c.at)
    )


async def _tools(connection: AsyncConnection, call_sid: str, start: datetime) -> tuple[ToolRecord, ...]:
    return tuple(_tool(each, start) for each in await _rows_of_call(connection, tools, call_sid, tools.c.started_at))


async def _rows_of_call(
    connection: AsyncConnection, table: sa.Table, call_sid: str, order: sa.Column[Any]
) -> Sequence[sa.Row[Any]]:
    query = sa.select(table).where(table.c.call_sid == call_sid).order_by(order)
    return (await connection.execute(query)).all()


def _call_values(row: sa.Row[Any]) -> dict[str, Any]:
    values = dict(row._mapping)
    del values["state"], values["pending"]  # for the call's next media stream, not part of its record
    return {"call_sid": values.pop("sid"), **values, "recording": _recording(row.recording)}


def _recording(stored: dict[str, Any] | None) -> RecordingRecord | None:
    return None if stored is None else RecordingRecord(**stored)


def _turn(row: sa.Row[Any], start: datetime) -> Turn:
    start_ms = ms_between(start, row.started_at)
    return Turn(
        role=row.role,
        item_id=row.item_id,
        text=row.text,
        heard_text=row.heard_text,
        start_ms=start_ms,
        end_ms=start_ms + row.length_ms,
        said_ms=row.said_ms,
        heard_ms=row.heard_ms,
        interrupted=row.interrupted,
        agent=row.agent,
        pauses=tuple(
            Pause(start_ms=start_ms + since, end_ms=start_ms + until, cause=cause)
            for since, until, cause in row.pauses or ()
        ),
    )


def _used(rows: Sequence[sa.Row[Any]]) -> tuple[UsageRecord, ...]:
    """Sum the usage reports of each model."""
    kinds = [each.name for each in fields(Usage)]
    models: dict[str, UsageRecord] = {}
    for row in rows:
        used = Usage(**{kind: getattr(row, kind) for kind in kinds})
        cost = Cost(_usd(row.nano_usd), row.at_least)
        if (before := models.get(row.model)) is not None:
            used, cost = before.usage + used, before.cost + cost
        models[row.model] = UsageRecord(model=row.model, usage=used, cost=cost)
    return tuple(models.values())


def _usd(nano: int) -> Decimal:
    return Decimal(int(nano)).scaleb(-9)


def _tool(row: sa.Row[Any], start: datetime) -> ToolRecord:
    return ToolRecord(
        call_id=row.call_id,
        name=row.name,
        arguments=row.arguments,
        output=row.output,
        at_ms=ms_between(start, row.started_at),
        ms=row.ms,
    )
