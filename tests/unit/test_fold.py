"""The fold: the same events give the same state, and no snapshot changes once it is made."""

from __future__ import annotations

from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from node import events as ev
from node.fold import fold  # importing it registers the folds
from node.folding.registry import FOLDS
from node.state import (
    MAX_HOLDERS_PER_SHARD,
    MAX_PEERS,
    RECENT_COMMANDS,
    RECENT_PROBLEMS,
    RECENT_QUERIES,
    Peer,
    State,
)

EVENTS: tuple[type[ev.Event], ...] = get_args(ev.AnyEvent)
# Few names, so that events meet each other in the state.
TEXTS = st.sampled_from(["", "a", "b", "p1", "p2", "me", "/ip4/192.0.2.1/tcp/1", "\u202e\x1b[2J"])


def values_of(hint: Any, name: str) -> st.SearchStrategy[Any]:
    if name == "at":
        return st.integers(0, 1_000_000).map(float)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0], name), max_size=3).map(tuple)
    if get_args(hint):
        return st.one_of([values_of(item, name) for item in get_args(hint)])
    if hint in (ev.PeerAnswer, ev.SourceRow):
        return built(hint)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXTS,
        int: st.integers(0, 5),
        float: st.floats(0, 1e6),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return plain[hint]


def built(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **{name: values_of(hint, name) for name, hint in hints.items()})


ANY_EVENT = st.one_of([built(kind) for kind in EVENTS])
HISTORY = st.lists(ANY_EVENT, max_size=25)
STARTED = ev.NodeStarted(
    at=1.0,
    peer_id="me",
    name="n",
    role="node",
    cluster="c",
    total_shards=4,
    own_shards=(0,),
    model_name="",
    transport="dual",
    version="1",
    shards_dir="/s",
    data_dir="/d",
)


def fold_all(events: list[Any], state: State | None = None) -> State:
    state = state or State().apply(STARTED)
    for event in events:
        state = state.apply(event)
    return state


def test_every_event_has_a_fold() -> None:
    assert set(FOLDS) == set(EVENTS)


def test_an_unknown_event_changes_nothing_but_the_time() -> None:
    before = State().apply(STARTED)
    after = fold(before, ev.Event(at=9.0))
    assert after == msgspec.structs.replace(before, updated_at=9.0)
    assert fold(after, ev.Event(at=3.0)).updated_at == 9.0


@given(ANY_EVENT)
def test_an_event_is_encoded_on_one_line_and_decoded_to_itself(event: ev.Event) -> None:
    line = ev.encode(event)
    assert b"\n" not in line
    assert ev.decode(line) == event


@given(HISTORY)
@settings(max_examples=150)
def test_a_replayed_journal_gives_the_same_state(events: list[Any]) -> None:
    replayed = [ev.decode(ev.encode(event)) for event in events]
    assert fold_all(replayed) == fold_all(events)


@given(HISTORY)
@settings(max_examples=150)
def test_no_snapshot_changes_after_it_was_made(events: list[Any]) -> None:
    state = State().apply(STARTED)
    kept: list[tuple[State, bytes]] = []
    for event in events:
        kept.append((state, msgspec.json.encode(state)))
        state = state.apply(event)
    for snapshot, told in kept:
        assert msgspec.json.encode(snapshot) == told


@given(HISTORY)
@settings(max_examples=150)
def test_readings_never_fail_and_agree_with_each_other(events: list[Any]) -> None:
    state = fold_all(events)
    for shard_id in [*state.shard_ids, 99]:
        status = state.status_of(shard_id)
        assert state.why(shard_id, 2e6)
        assert (shard_id in state.missing_shards) == (
            status == "OFFLINE" and shard_id in state.shard_ids
        )
    assert state.complete == (len(state.shard_ids) > 0 and state.missing_shards == ())
    assert state.updated_at == max([1.0, *(event.at for event in events)])


def test_a_peer_of_our_own_id_never_appears() -> None:
    heard = ev.PeerHeard(at=2.0, peer_id="me", rtt_ms=1.0, transport="tcp")
    assert fold_all([heard]).peers == {}


def test_lists_stay_within_their_bounds() -> None:
    state = State().apply(STARTED)
    for number in range(MAX_PEERS + 50):
        state = state.apply(
            ev.PeerHeard(at=float(number), peer_id=f"p{number}", rtt_ms=None, transport="tcp")
        )
    assert len(state.peers) == MAX_PEERS
    # Those heard longest ago left.
    assert "p0" not in state.peers
    assert f"p{MAX_PEERS + 49}" in state.peers

    events: list[Any] = []
    for number in range(400):
        events += [
            ev.DhtQueryStarted(at=1.0, query_id=number, kind="get_value", key="k"),
            ev.CommandSent(at=1.0, request_id=f"{number}", command="X", to="p", summary=""),
            ev.Problem(at=1.0, level="info", tag="T", sentence="s"),
            discovered(f"h{number}"),
        ]
    state = fold_all(events)
    assert len(state.queries) == RECENT_QUERIES
    assert len(state.commands) == RECENT_COMMANDS
    assert len(state.problems) == RECENT_PROBLEMS
    assert len(state.shards[1].holders) == MAX_HOLDERS_PER_SHARD


def test_a_connected_peer_is_not_pushed_out_by_a_flood() -> None:
    state = (
        State()
        .apply(STARTED)
        .apply(
            ev.PeerConnected(
                at=1.0, peer_id="friend", address="", transport="tcp", direction="inbound"
            )
        )
    )
    for number in range(MAX_PEERS + 10):
        state = state.apply(
            ev.PeerHeard(at=9.0, peer_id=f"p{number}", rtt_ms=None, transport="tcp")
        )
    assert "friend" in state.peers


def discovered(peer_id: str = "p1", **changes: Any) -> ev.ShardDiscovered:
    fields: dict[str, Any] = {
        "at": 5.0,
        "shard_id": 1,
        "peer_id": peer_id,
        "sequence": 1,
        "loaded": True,
        "layer_start": 0,
        "layer_end": 2,
        "total_shards": 4,
        "model_name": "m",
        "addresses": (),
        "agent": "a",
        "source": "dht",
        "expires_at": 300.0,
        "phase": "loaded",
    }
    return ev.ShardDiscovered(**(fields | changes))


def test_a_shard_nobody_counts_is_not_entered() -> None:
    assert 7 not in fold_all([discovered(shard_id=7)]).shards


def test_a_query_is_settled_in_its_place() -> None:
    begun = [ev.DhtQueryStarted(at=1.0, query_id=i, kind="get_value", key="k") for i in (1, 2, 3)]
    done = ev.DhtQueryFinished(
        at=2.0, query_id=2, kind="get_value", key="k", duration_ms=5.0, asked=(), outcome="missing"
    )
    state = fold_all([*begun, done])
    assert [(q.query_id, q.outcome) for q in state.queries] == [
        (3, "running"),
        (2, "missing"),
        (1, "running"),
    ]
    assert state.counters.queries == 1


@pytest.mark.parametrize("status", ["success", "error", "timeout"])
def test_an_answer_settles_its_own_command_only(status: Any) -> None:
    sent = [
        ev.CommandSent(at=1.0, request_id="r", command="X", to=peer, summary="")
        for peer in ("p1", "p2")
    ]
    came = ev.CommandReceived(at=1.0, request_id="r", command="X", peer_id="p1", summary="")
    answered = ev.CommandAnswered(
        at=2.0,
        request_id="r",
        command="X",
        peer_id="p1",
        status=status,
        duration_ms=1.0,
        summary="done",
    )
    state = fold_all([*sent, came, answered])
    found = {(row.direction, row.peer_id): row.status for row in state.commands}
    assert found == {("out", "p1"): status, ("out", "p2"): "waiting", ("in", "p1"): "waiting"}


def test_what_union_types_the_events_use_is_covered() -> None:
    """`values_of` knows every type in the events, or the properties above test less than said."""
    for kind in EVENTS:
        for field in msgspec.structs.fields(kind):
            assert get_origin(field.type) is not Union or get_args(field.type)
            values_of(field.type, field.name)


def test_a_peer_answers_only_while_it_is_not_silent() -> None:
    assert not Peer(peer_id="p").answering
    assert Peer(peer_id="p", heard_at=1.0).answering
    assert not Peer(peer_id="p", heard_at=1.0, silent=True).answering
