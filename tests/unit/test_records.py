"""Records: only what its author signed, in shape, in time and under its own key gets in."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given, strategies as st
from record_kit import (
    AUTHOR,
    CLUSTER,
    STRANGER,
    announcement,
    fields_of,
    holder_key,
    readiness,
    signed,
    signed_fields,
    torrent,
)

from node.network.identity import verify
from node.swarm import keys
from node.swarm.records import (
    MAX_AGE_S,
    MAX_AHEAD_S,
    MAX_RECORD_BYTES,
    Announcement,
    RecordRefusedError,
    SequenceClock,
    author,
    read_record,
    select,
    write_record,
)
from node.torrent.files import info_hash

SHARD_KEY = keys.shard_key(CLUSTER, 1)
READY_KEY = keys.readiness_key(CLUSTER)
TORRENT_KEY = keys.torrent_key(CLUSTER, info_hash("shard-1.gguf", 1000))
GOOD = {
    holder_key(announcement()): announcement,
    SHARD_KEY: announcement,
    READY_KEY: readiness,
    TORRENT_KEY: torrent,
}


def refused(key: str, raw: bytes, **more: Any) -> str:
    with pytest.raises(RecordRefusedError) as found:
        read_record(key, raw, verify, **more)
    assert found.value.reason
    assert len(found.value.reason) < 500
    return found.value.field


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize("key", GOOD)
def test_written_and_read_back(key: str) -> None:
    record = GOOD[key]()
    raw = signed(record)
    assert len(raw) <= MAX_RECORD_BYTES
    found = read_record(key, raw, verify)
    assert type(found) is type(record)
    assert fields_of(found) == fields_of(record)
    assert author(found) == AUTHOR.peer_id


@given(
    st.text(max_size=96).filter(lambda text: text.isprintable()),
    st.integers(0, 999),
    st.floats(0, 1),
    st.integers(0, (1 << 62) - 1),
)
def test_round_trip_of_values(name: str, shard: int, progress: float, sequence: int) -> None:
    record = announcement(
        model_name=name,
        shard_id=shard,
        total_shards=1000,
        progress=progress,
        sequence=sequence,
        phase="loading",
        shard_loaded=False,
    )
    found = read_record(holder_key(record), signed(record), verify)
    assert fields_of(found) == fields_of(record)


def test_fields_of_a_later_version_are_signed_too() -> None:
    fields = fields_of(announcement()) | {"later": "x"}
    raw = signed_fields(fields)
    assert isinstance(read_record(SHARD_KEY, raw, verify), Announcement)
    assert refused(SHARD_KEY, raw.replace(b'"later": "x"', b'"later": "y"')) == "sig"


def test_a_record_of_our_own_that_is_too_long_is_not_written() -> None:
    long = announcement(model_name="é" * 96, addresses=("/ip4/" + "x" * 190,) * 6, agent="é" * 96)
    with pytest.raises(ValueError, match="bytes"):
        write_record(
            Announcement(**{**_struct(long), "root": "a" * 64, "model_name": "\U0001f999" * 96}),
            AUTHOR.sign,
        )


def _struct(record: Announcement) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


# ---------------------------------------------------------------- every field wrong

HUGE = 10**400
WRONG: dict[str, list[Any]] = {
    "cluster": [None, 5, "x" * 97, "other", ["test"]],
    "peer_id": [None, 5, "", "short", "x" * 129, AUTHOR.peer_id + "\n", "é" * 46],
    "shard_id": [None, "1", 1.5, -1, 1000, HUGE, True, [1]],
    "layer_start": [None, "0", -1, 10_001, 0.5],
    "layer_end": [None, "0", -1, 10_001, 1],
    "shard_loaded": [None, 1, "true"],
    "addresses": [None, "x", [5], ["x" * 201], ["/ip4/192.0.2.7/tcp/1"] * 7, {}],
    "capabilities": [None, [], {"cpu_cores": -1}, {"cpu_cores": "2"}, {"gpu_available": 1}],
    "model_name": [None, 5, "x" * 97, []],
    "total_shards": [None, 0, 1001, "4", 4.5],
    "timestamp": [None, "now", [], True],
    "version": [None, "2", 2.5, []],
    "sequence": [None, -1, 1 << 62, HUGE, "5", 5.5],
    "phase": [None, "LOADED", "loaded\n", "", "failed", 5],
    "progress": [None, -0.1, 1.1, "0.5", HUGE],
    "size": [None, -1, (1 << 50) + 1, "5", 0.5],
    "root": [None, "a" * 63, "A" * 64, "a" * 64 + "\n", "\n", 5],
    "agent": [None, 5, "x" * 97],
    "protocols": [None, [2], [2, 2, 2], ["2", "2"], "22"],
    "leaving": [None, 1, "false"],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(
    ("name", "value"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
)
def test_a_wrong_field_is_named(name: str, value: object) -> None:
    """The signature fits: what is refused is the value, not the tampering."""
    raw = signed_fields(fields_of(announcement()) | {name: value})
    if name == "shard_id" and len(raw) > MAX_RECORD_BYTES:
        pytest.fail("the case is too long to test the field")
    field = refused(SHARD_KEY, raw)
    assert field.split(".")[0].split("[")[0] == name


OPTIONAL = {"phase", "progress", "size", "root", "agent", "protocols", "leaving"}


@pytest.mark.parametrize("name", [name for name in WRONG if name not in OPTIONAL])
def test_a_missing_field_is_named(name: str) -> None:
    fields = fields_of(announcement())
    del fields[name]
    assert refused(SHARD_KEY, signed_fields(fields)) == name


@pytest.mark.parametrize("phase", ["file\n", "none\n", "files", "FILE"])
def test_a_phase_that_is_nearly_one(phase: str) -> None:
    """A newline at its end passed once: an event with it can be written and never read again."""
    fields = fields_of(announcement(shard_loaded=False, phase="file"))
    assert refused(SHARD_KEY, signed_fields(fields | {"phase": phase})) == "phase"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"total_shards": "4"}, "total_shards"),
        ({"available_shards": [1000]}, "available_shards[0]"),
        ({"available_shards": [1] * 257}, "available_shards"),
        ({"announcing_peer_id": "x"}, "announcing_peer_id"),
        ({"announcing_peer_id": STRANGER.peer_id}, "sig"),
        ({"is_ready": "yes"}, "is_ready"),
        ({"cluster_name": "other"}, "cluster_name"),
    ],
)
def test_readiness_refused(changes: dict[str, Any], field: str) -> None:
    assert refused(READY_KEY, signed_fields(fields_of(readiness()) | changes)) == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"info_hash": "xyz"}, "info_hash"),
        ({"info_hash": "cd" * 32}, "info_hash"),
        ({"filename": ""}, "filename"),
        ({"filename": "x" * 256}, "filename"),
        ({"size": -1}, "size"),
        ({"root": "zz"}, "root"),
        ({"cluster": "other"}, "cluster"),
        ({"peer_id": STRANGER.peer_id}, "sig"),
    ],
)
def test_torrent_record_refused(changes: dict[str, Any], field: str) -> None:
    assert refused(TORRENT_KEY, signed_fields(fields_of(torrent()) | changes)) == field


# ---------------------------------------------------------------- who signed what


def test_a_forged_signature_is_refused() -> None:
    fields = json.loads(signed(announcement()))
    for sig in ("", "A" * 88, "not base64!", fields["sig"][:-4], 5, None):
        forged = json.dumps(fields | {"sig": sig}).encode()
        assert refused(SHARD_KEY, forged) == "sig"


def test_a_record_signed_by_another_is_refused() -> None:
    assert refused(SHARD_KEY, signed(announcement(), STRANGER)) == "sig"


@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_flipped_byte_never_gets_through_unnoticed(at: int, change: int) -> None:
    """Whatever still reads says the same as what was signed."""
    record = announcement()
    raw = bytearray(signed(record))
    raw[at % len(raw)] ^= change
    try:
        found = read_record(SHARD_KEY, bytes(raw), verify)
    except RecordRefusedError:
        return
    assert fields_of(found) == fields_of(record)


def test_a_record_under_another_key_is_refused() -> None:
    raw = signed(announcement())
    assert refused(keys.shard_key(CLUSTER, 2), raw) == "shard_id"
    assert refused(keys.shard_key("other", 1), raw) == "cluster"
    assert refused(keys.holder_key(CLUSTER, 1, STRANGER.peer_id), raw) == "peer_id"
    assert refused(READY_KEY, raw) == "cluster_name"
    assert refused(TORRENT_KEY, raw) == "info_hash"
    assert refused("/llama-cluster/test/nonsense/1", raw) == "key"
    assert refused("/elsewhere", raw) == "key"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shard_id": 1, "total_shards": 1}, "shard_id"),
        ({"layer_start": 4, "layer_end": 2}, "layer_end"),
        ({"shard_loaded": True, "phase": "file"}, "phase"),
    ],
)
def test_fields_that_contradict_each_other(changes: dict[str, Any], field: str) -> None:
    assert refused(SHARD_KEY, signed(announcement(**changes))) == field


# ---------------------------------------------------------------- time


def test_stale_and_future_records_are_refused() -> None:
    now = time.time()
    raw = signed(announcement(timestamp=now))
    for moment in (now, now + MAX_AGE_S - 1, now - MAX_AHEAD_S + 1):
        read_record(SHARD_KEY, raw, verify, now=moment)
    assert refused(SHARD_KEY, raw, now=now + MAX_AGE_S + 1) == "timestamp"
    assert refused(SHARD_KEY, raw, now=now - MAX_AHEAD_S - 1) == "timestamp"


@pytest.mark.parametrize("moment", [0.0, -1e300, 1e308, -1e308, 9e15])
def test_absurd_times_are_refused_in_a_short_sentence(moment: float) -> None:
    assert refused(SHARD_KEY, signed(announcement(timestamp=moment))) == "timestamp"


# ---------------------------------------------------------------- hostile JSON


def test_oversized() -> None:
    fields = fields_of(announcement()) | {"padding": "x" * MAX_RECORD_BYTES}
    assert refused(SHARD_KEY, signed_fields(fields)) == "size"
    assert refused(SHARD_KEY, b" " * 10_000_000) == "size"
    exact = signed(announcement())
    read_record(SHARD_KEY, exact + b" " * (MAX_RECORD_BYTES - len(exact)), verify)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deeply_nested(opening: bytes) -> None:
    body = opening * (MAX_RECORD_BYTES // len(opening))
    assert refused(SHARD_KEY, body) == "record"
    raw = signed(announcement())
    inside = raw[:-1] + b',"z":' + opening * 200 + b"]" * 200 + b"}"
    assert refused(SHARD_KEY, inside) == "record"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b'{"cluster": "\\ud800"}',
        b'{"timestamp": NaN}',
        b'{"timestamp": Infinity}',
        b'{"timestamp": 1e999}',
        b'{"sequence": 1' + b"0" * 1900 + b"}",
        b"\0" * 100,
    ],
)
def test_what_is_no_record(raw: bytes) -> None:
    refused(SHARD_KEY, raw)


def test_nan_and_huge_numbers_in_a_field_of_a_later_version() -> None:
    raw = signed(announcement())
    for value in (b"NaN", b"1e400", b"-Infinity", b"1" + b"0" * 600):
        refused(SHARD_KEY, raw[:-1] + b',"later":' + value + b"}")


def test_a_doubled_key_cannot_say_two_things() -> None:
    """The last one counts for what is read and for what the signature is checked over."""
    raw = signed(announcement())
    assert refused(SHARD_KEY, raw[:-1] + b',"model_name":"other"}') == "sig"
    found = read_record(SHARD_KEY, b'{"model_name":"other",' + raw[1:], verify)
    assert isinstance(found, Announcement)
    assert found.model_name == "tiny"


@given(st.binary(max_size=300), st.text(max_size=80))
def test_any_bytes_under_any_key_are_refused(raw: bytes, key: str) -> None:
    refused(SHARD_KEY, raw)
    refused(key, raw)


# ---------------------------------------------------------------- select

RAW = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda n, t: json.dumps({"sequence": n, "t": t}).encode(), st.integers(), st.text()),
    st.sampled_from([b"[" * 5000, b"{}", b"[]", b"null", b'{"sequence":"9"}', b'{"sequence":1e9}']),
)


@given(st.lists(RAW, min_size=1, max_size=5))
def test_select_is_total_deterministic_and_blind_to_the_order(values: list[bytes]) -> None:
    best = {values[select(values)]}
    for turned in itertools.islice(itertools.permutations(values), 24):
        best.add(turned[select(list(turned))])
    assert len(best) == 1


@given(st.lists(RAW, min_size=2, max_size=5))
def test_select_among_pairs_agrees_with_select_among_all(values: list[bytes]) -> None:
    """Nodes that heard the records in different orders end with the same one."""
    kept = values[0]
    for value in values[1:]:
        kept = [kept, value][select([kept, value])]
    assert kept == values[select(values)]


def test_select_prefers_the_newer_then_the_content_then_the_last() -> None:
    old, new = signed(announcement(sequence=1)), signed(announcement(sequence=2))
    assert select([old, new]) == 1
    assert select([new, old]) == 0
    twins = sorted((signed(announcement(sequence=2, size=8)), signed(announcement(sequence=2))))
    assert select(twins) == 1
    assert select(twins[::-1]) == 0
    assert select([new, new]) == 1  # so that putting the same record again is accepted


def test_sequences_grow_even_when_the_clock_does_not() -> None:
    moments = iter([10.0, 10.0, 9.0, 11.0])
    clock = SequenceClock(lambda: next(moments))
    assert [clock.next() for _ in range(4)] == [10_000, 10_001, 10_002, 11_000]
