"""Commands: each field declared, whatever is wrong named, nothing served twice."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from node.network.identity import Identity
from node.swarm import commands as cmd

PEER = Identity.create().peer_id
OTHER = Identity.create().peer_id
NOW = 1_800_000_000.0


def command(**changes: Any) -> dict[str, Any]:
    fields = {
        "command": "GET_STATUS",
        "request_id": "req-1",
        "from": PEER,
        "to": OTHER,
        "timestamp": NOW,
        "params": {},
    }
    return fields | changes


def plain(**changes: Any) -> dict[str, Any]:
    return {"from": PEER, "message": "hello", "timestamp": NOW, "send_time_ms": 5} | changes


def raw(fields: object) -> bytes:
    return json.dumps(fields).encode("utf-8")


def refused(body: bytes | None) -> str:
    with pytest.raises(cmd.MessageRefusedError) as found:
        cmd.parse(body, PEER, NOW)
    assert found.value.reason
    assert len(found.value.reason) < 500
    return found.value.field


def params_refused(name: str, params: dict[str, Any]) -> str:
    with pytest.raises(cmd.MessageRefusedError) as found:
        cmd.parse_params(name, params)
    return found.value.field


# ---------------------------------------------------------------- the envelope


def test_a_command_and_a_message_are_told_apart() -> None:
    found = cmd.parse(raw(command()), PEER, NOW)
    assert isinstance(found, cmd.Command)
    assert (found.command, found.request_id, found.from_, found.to) == (
        "GET_STATUS",
        "req-1",
        PEER,
        OTHER,
    )
    text = cmd.parse(raw(plain()), PEER, NOW)
    assert isinstance(text, cmd.PlainMessage)
    assert text.message == "hello"


def test_what_the_origin_sends_is_accepted() -> None:
    bare = {"command": "GET_STATUS", "request_id": "x", "from": PEER, "timestamp": int(NOW)}
    assert isinstance(cmd.parse(raw(bare), PEER, NOW), cmd.Command)
    iso = {"from": PEER, "message": "hi", "timestamp": "2026-11-20T10:00:00Z"}
    assert isinstance(cmd.parse(raw(iso), PEER, NOW), cmd.PlainMessage)


WRONG: dict[str, list[Any]] = {
    "command": [None, 5, "", "get_status", "GET STATUS", "GET_STATUS\n", "X" * 65, []],
    "request_id": [None, 5, "", "x" * 129, {}],
    "from": [None, 5, "", "x" * 129, OTHER, PEER + "\n"],
    "to": [5, "x" * 129, []],
    "timestamp": [None, "now", [], True, 10**400],
    "params": [None, [], "x", 5],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(
    ("name", "value"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)]
)
def test_a_wrong_field_is_named(name: str, value: object) -> None:
    assert refused(raw(command(**{name: value}))) == name


@pytest.mark.parametrize("name", ["request_id", "from", "timestamp"])
def test_a_missing_field_is_named(name: str) -> None:
    fields = command()
    del fields[name]
    assert refused(raw(fields)) == name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"from": OTHER}, "from"),
        ({"from": 5}, "from"),
        ({"message": 5}, "message"),
        ({"message": "x" * (cmd.MAX_TEXT + 1)}, "message"),
        ({"timestamp": []}, "timestamp"),
        ({"timestamp": "x" * 65}, "timestamp"),
        ({"send_time_ms": "x"}, "send_time_ms"),
    ],
)
def test_a_wrong_message_is_named(changes: dict[str, Any], field: str) -> None:
    assert refused(raw(plain(**changes))) == field


def test_neither_command_nor_message() -> None:
    assert refused(raw({"from": PEER, "timestamp": NOW})) == "command"


@pytest.mark.parametrize("age", [cmd.MAX_AGE_S + 1, -cmd.MAX_AHEAD_S - 1, 1e9, -1e9, 1e308])
def test_stale_and_future_messages(age: float) -> None:
    assert refused(raw(command(timestamp=NOW - age))) == "timestamp"
    assert refused(raw(plain(timestamp=NOW - age))) == "timestamp"
    for fine in (cmd.MAX_AGE_S - 1, -cmd.MAX_AHEAD_S + 1):
        cmd.parse(raw(command(timestamp=NOW - fine)), PEER, NOW)


# ---------------------------------------------------------------- hostile JSON


def test_longer_than_the_limit() -> None:
    """The network hands None for a request that passed 1 MiB."""
    assert refused(None) == "size"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"command":', b'{"params":'])
def test_a_hundred_thousand_levels(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    for body in (opening * 100_000, opening * 100_000 + b"1" + closing * 100_000):
        assert refused(body) == "message"


def test_just_too_deep_is_refused_and_just_deep_enough_is_not() -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return command(params={"x": value})

    assert isinstance(cmd.parse(raw(nested(cmd.MAX_DEPTH - 2)), PEER, NOW), cmd.Command)
    assert refused(raw(nested(cmd.MAX_DEPTH))) == "message"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"5",
        b"[]",
        b'"x"',
        b"{",
        b"\xff",
        b"\0",
        b'{"command": "\\ud800"}',
        b'{"command": NaN}',
        b'{"timestamp": 1e999}',
        b'{"timestamp": 1' + b"0" * 6000 + b"}",
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    assert refused(body) == "message"


def test_a_doubled_key_counts_once() -> None:
    body = raw(command())[:-1] + b', "from": "%s"}' % OTHER.encode()
    assert refused(body) == "from"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(body: bytes) -> None:
    refused(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from([*command(), "message", "x"]), JSON, max_size=6))
def test_parse_is_total_on_objects(fields: dict[str, Any]) -> None:
    refused(msgspec.json.encode(command(**fields) | {"from": OTHER}))


# ---------------------------------------------------------------- params

SHARD_ID = [None, "1", 1.5, -1, 1000, 10**30, True, []]
TOTAL = [None, "4", 0, 1001, 4.5, -1]
CLUSTER = [None, 5, "x" * 65]
WRONG_PARAMS: dict[str, dict[str, list[Any]]] = {
    "LOAD_SHARD": {"shard_id": SHARD_ID, "model_name": [None, 5, "x" * 97]},
    "UNLOAD_SHARD": {"shard_id": SHARD_ID},
    "SYNC_TORRENTS": {"total_shards": TOTAL},
    "SWARM_READY": {"total_shards": TOTAL, "cluster_name": CLUSTER},
    "SHARD_LOADED": {
        "shard_id": SHARD_ID,
        "cluster_name": CLUSTER,
        "peer_id": [None, 5, "x" * 129],
    },
    "INFERENCE": {
        "prompt": [None, 5, "x" * 1_000_001],
        "input_data": [None, 5, "x" * 1_000_001],
        "max_tokens": [None, 0, 100_001, "5", 1.5],
        "temperature": [None, -0.1, 2.1, "1"],
        "shard_id": [-1, 1000, "1"],
    },
}
GOOD_PARAMS: dict[str, dict[str, Any]] = {
    "GET_STATUS": {},
    "GET_CAPABILITIES": {},
    "LIST_FILES": {},
    "LOAD_SHARD": {"shard_id": 1},
    "UNLOAD_SHARD": {"shard_id": 1},
    "SYNC_TORRENTS": {"total_shards": 4},
    "SWARM_READY": {"total_shards": 4, "cluster_name": "c"},
    "SHARD_LOADED": {"shard_id": 1, "cluster_name": "c", "peer_id": PEER},
    "INFERENCE": {"prompt": "x"},
}
PARAM_CASES = [
    (name, field, value)
    for name, fields in WRONG_PARAMS.items()
    for field, values in fields.items()
    for value in values
]


def test_every_command_has_params_here() -> None:
    assert set(GOOD_PARAMS) == set(cmd.PARAMS)
    for name, params in GOOD_PARAMS.items():
        assert isinstance(cmd.parse_params(name, params | {"later": 1}), cmd.PARAMS[name])


@pytest.mark.parametrize(
    ("name", "field", "value"),
    PARAM_CASES,
    ids=[f"{name}-{field}-{i}" for i, (name, field, _) in enumerate(PARAM_CASES)],
)
def test_a_wrong_param_is_named(name: str, field: str, value: object) -> None:
    assert params_refused(name, GOOD_PARAMS[name] | {field: value}) == f"params.{field}"


@pytest.mark.parametrize("name", ["LOAD_SHARD", "UNLOAD_SHARD", "SYNC_TORRENTS", "SHARD_LOADED"])
def test_a_missing_param_is_named(name: str) -> None:
    assert params_refused(name, {}) in ("params.shard_id", "params.total_shards")


@pytest.mark.parametrize("name", ["", "NOPE", "__class__", "GET_STATUS\n", "\x1b[2J"])
def test_an_unknown_command(name: str) -> None:
    with pytest.raises(cmd.MessageRefusedError) as found:
        cmd.parse_params(name, {})
    assert found.value.field == "command"
    assert "\x1b" not in found.value.reason
    assert "\n" not in found.value.reason


@given(st.sampled_from(sorted(cmd.PARAMS)), st.dictionaries(st.text(max_size=12), JSON, max_size=4))
def test_parse_params_is_total(name: str, params: dict[str, Any]) -> None:
    try:
        assert isinstance(cmd.parse_params(name, params), cmd.PARAMS[name])
    except cmd.MessageRefusedError as error:
        assert error.field.startswith("params.")


# ---------------------------------------------------------------- replays and ids


def test_a_request_id_is_served_once_per_peer() -> None:
    replays = cmd.Replays()
    assert replays.is_new(PEER, "a", 0.0)
    assert not replays.is_new(PEER, "a", 1.0)
    assert replays.is_new(OTHER, "a", 1.0)
    assert replays.is_new(PEER, "b", 1.0)
    # As long as a message with that id could still pass the age check, it is remembered.
    assert not replays.is_new(PEER, "a", cmd.MAX_AGE_S + cmd.MAX_AHEAD_S)
    assert replays.is_new(PEER, "a", cmd.MAX_AGE_S + cmd.MAX_AHEAD_S + 1)


def test_the_memory_of_replays_is_bounded() -> None:
    replays = cmd.Replays(limit=100)
    for number in range(10_000):
        assert replays.is_new(PEER, str(number), 0.0)
    assert len(replays._seen) == 100
    assert not replays.is_new(PEER, "9999", 0.0)


def test_our_own_ids_never_repeat() -> None:
    ids = cmd.RequestIds(lambda: 7)
    made = [ids.next() for _ in range(100)]
    assert len(set(made)) == 100
    assert all(item.startswith("req-") for item in made)


# ---------------------------------------------------------------- answers


def answer(**changes: Any) -> dict[str, Any]:
    fields = {
        "command": "GET_STATUS",
        "request_id": "req-1",
        "from": PEER,
        "to": OTHER,
        "timestamp": NOW,
        "status": "success",
        "result": {"x": 1},
    }
    return fields | changes


def test_commands_and_answers_round_trip() -> None:
    sent = cmd.Command(
        command="LOAD_SHARD", request_id="r", from_=PEER, to=OTHER, timestamp=NOW, params={"a": 1}
    )
    assert cmd.parse(cmd.encode_command(sent), PEER, NOW) == sent
    reply = cmd.parse_response(raw(answer()))
    assert cmd.parse_response(cmd.encode_response(reply)) == reply


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (raw(answer(status="fine")), "status"),
        (raw(answer(status="success\n")), "status"),
        (raw(answer(result=[])), "result"),
        (raw(answer(error="x" * 4097)), "error"),
        (raw(answer(request_id=5)), "request_id"),
        (raw(answer(result={"x": [[[[[[[[[[[[[[1]]]]]]]]]]]]]]})), "answer"),
        (b"[" * 100_000, "answer"),
        (b"", "answer"),
        (b"\xff", "answer"),
        (b'{"result": 1' + b"0" * 6000 + b"}", "record"),
    ],
    ids=[
        *("status", "status-newline", "result", "error", "request_id", "deep", "deeper"),
        *("empty", "bytes", "huge"),
    ],
)
def test_an_answer_that_is_refused(body: bytes, field: str) -> None:
    with pytest.raises(cmd.MessageRefusedError) as found:
        cmd.parse_response(body)
    assert found.value.field == field
