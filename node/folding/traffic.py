"""Folds of DHT queries, commands and messages."""

from __future__ import annotations

from msgspec.structs import replace

from node import events as ev
from node.folding.registry import count, on, with_shard
from node.state import (
    RECENT_COMMANDS,
    RECENT_QUERIES,
    CommandRow,
    Query,
    State,
)


@on(ev.DhtQueryStarted)
def _query_started(state: State, event: ev.DhtQueryStarted) -> State:
    query = Query(
        query_id=event.query_id,
        kind=event.kind,
        key=event.key,
        shard_id=event.shard_id,
        started_at=event.at,
    )
    return replace(state, queries=(query, *state.queries)[:RECENT_QUERIES])


@on(ev.DhtQueryFinished)
def _query_finished(state: State, event: ev.DhtQueryFinished) -> State:
    query = Query(
        query_id=event.query_id,
        kind=event.kind,
        key=event.key,
        shard_id=event.shard_id,
        started_at=event.at - event.duration_ms / 1000,
        duration_ms=event.duration_ms,
        asked=event.asked,
        outcome=event.outcome,
        found=event.found,
        detail=event.detail,
    )
    others = tuple(item for item in state.queries if item.query_id != event.query_id)
    running = len(others) < len(state.queries)
    if running:
        queries = tuple(
            query if item.query_id == event.query_id else item for item in state.queries
        )
    else:
        queries = (query, *others)[:RECENT_QUERIES]
    state = count(
        state,
        queries=1,
        queries_failed=event.outcome == "failed",
        query_ms=event.duration_ms,
    )
    return replace(state, queries=queries)


@on(ev.RoutingUpdated)
def _routing(state: State, event: ev.RoutingUpdated) -> State:
    return replace(state, routing_size=event.size)


@on(ev.RecordRefused)
def _record_refused(state: State, event: ev.RecordRefused) -> State:
    return count(state, records_refused=1)


@on(ev.ShardAnnounced)
def _announced(state: State, event: ev.ShardAnnounced) -> State:
    shard = state.shards.get(event.shard_id)
    if shard is None:
        return state
    local = replace(shard.local, announced_at=event.at)
    return with_shard(state, event.shard_id, local=local)


def _with_command(state: State, row: CommandRow) -> State:
    return replace(state, commands=(row, *state.commands)[:RECENT_COMMANDS])


@on(ev.CommandSent)
def _sent(state: State, event: ev.CommandSent) -> State:
    row = CommandRow(
        request_id=event.request_id,
        command=event.command,
        peer_id=event.to,
        direction="out",
        at=event.at,
        summary=event.summary,
        origin=event.origin,
    )
    return _with_command(count(state, messages_out=1), row)


@on(ev.CommandReceived)
def _received(state: State, event: ev.CommandReceived) -> State:
    row = CommandRow(
        request_id=event.request_id,
        command=event.command,
        peer_id=event.peer_id,
        direction="in",
        at=event.at,
        summary=event.summary,
    )
    return _with_command(count(state, messages_in=1), row)


def _settle(state: State, direction: str, event: ev.CommandAnswered | ev.CommandServed) -> State:
    detail = event.detail if isinstance(event, ev.CommandAnswered) else ""
    rows = tuple(
        replace(
            row,
            status=event.status,
            duration_ms=event.duration_ms,
            summary=event.summary,
            detail=detail,
        )
        if row.request_id == event.request_id
        and row.direction == direction
        and row.peer_id == event.peer_id
        else row
        for row in state.commands
    )
    return replace(state, commands=rows)


@on(ev.CommandAnswered)
def _answered(state: State, event: ev.CommandAnswered) -> State:
    return _settle(state, "out", event)


@on(ev.CommandServed)
def _served(state: State, event: ev.CommandServed) -> State:
    return _settle(state, "in", event)


@on(ev.MessageReceived)
def _message(state: State, event: ev.MessageReceived) -> State:
    row = CommandRow(
        request_id="",
        command="MESSAGE",
        peer_id=event.peer_id,
        direction="in",
        at=event.at,
        status="received",
        summary=event.text,
    )
    return _with_command(count(state, messages_in=1), row)


@on(ev.MessageRefused)
def _message_refused(state: State, event: ev.MessageRefused) -> State:
    return count(state, messages_refused=1)
