"""Manifests: what is signed is what is read, everything else is refused by field; trust."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from node.errors import PlainError
from node.torrent import trust
from node.torrent.files import info_hash
from node.torrent.limits import MANIFEST_LIFE_S, MAX_KNOWN_ROOTS, MAX_PUBLISHERS, MIB
from node.torrent.manifest import (
    DOMAIN,
    Manifest,
    ManifestRefusedError,
    make_manifest,
    newest,
    read_manifest,
    write_manifest,
)

NOW = 1_795_200_000.0


class Publisher:
    """A key whose peer id is its public key in hex."""

    def __init__(self, seed: int) -> None:
        self.key = SigningKey(bytes([seed]) * 32)
        self.peer_id = bytes(self.key.verify_key).hex()

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data).signature


def verify(peer_id: str, data: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(bytes.fromhex(peer_id)).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


ANN, BOB, EVE = Publisher(1), Publisher(2), Publisher(3)


def manifest(publisher: Publisher = ANN, root: int = 1, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "filename": "shard-0.gguf",
        "size": 3 * MIB,
        "root": bytes([root]) * 32,
        "piece_length": 256 * 1024,
        "publisher": publisher.peer_id,
        "seq": 7,
        "now": NOW,
    }
    return make_manifest(**{**values, **changes})


def signed(fields: dict[str, Any], publisher: Publisher = ANN) -> bytes:
    """Any fields, honestly signed."""
    body = {name: value for name, value in fields.items() if name != "sig"}
    data = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    body["sig"] = base64.b64encode(publisher.sign(DOMAIN + data.encode())).decode()
    return json.dumps(body).encode()


def fields_of(item: Manifest) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(write_manifest(item, ANN.sign))
    return fields


def test_the_info_hash_is_the_designs() -> None:
    assert (
        info_hash("shard-0.gguf", 13936124776)
        == "e40aeb34da87db7997d21c343d14792f08c27a5de8dab5eedfb099a2105e47fc"
    )
    own = hashlib.sha256(b"shard-0.gguf" + (3 * MIB).to_bytes(8, "little")).hexdigest()
    assert manifest().info_hash == own


@given(
    size=st.integers(1, 1 << 34),
    seq=st.integers(0, 2**53 - 1),
    name=st.text("aé日 .-", max_size=20),
)
def test_round_trip(size: int, seq: int, name: str) -> None:
    from node.torrent.sizes import piece_length_for

    item = manifest(
        size=size, seq=seq, filename=f"a{name}.gguf", piece_length=piece_length_for(size)
    )
    raw = write_manifest(item, ANN.sign)
    assert len(raw) <= 2048
    assert (
        raw
        == json.dumps(
            json.loads(raw), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
    )
    assert read_manifest(raw, verify, now=NOW) == item


def test_unknown_keys_are_ignored_but_signed() -> None:
    fields = {**fields_of(manifest()), "colour": "blue", "n": 3, "flag": None}
    raw = signed(fields)
    assert read_manifest(raw, verify, now=NOW) == manifest()
    changed = raw.replace(b"blue", b"pink")
    with pytest.raises(ManifestRefusedError, match="sig"):
        read_manifest(changed, verify, now=NOW)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algo", "md5"),
        ("v", 3),
        ("v", True),
        ("filename", "../x.gguf"),
        ("filename", "x.bin"),
        ("filename", ""),
        ("filename", 5),
        ("size", 0),
        ("size", -1),
        ("size", 2**63),
        ("size", 1.5),
        ("size", "3"),
        ("info_hash", "0" * 64),
        ("info_hash", "X" * 64),
        ("root", "ab"),
        ("root", None),
        ("piece_length", 3),
        ("piece_length", 0),
        ("piece_length", 2**40),
        ("publisher", "short"),
        ("publisher", "../" * 20),
        ("seq", -1),
        ("seq", 2**63),
        ("created", int(NOW) + 301),
        ("expires", int(NOW) - 1),
        ("expires", int(NOW) + MANIFEST_LIFE_S + 1),
    ],
)
def test_every_wrong_field_is_named(field: str, value: object) -> None:
    fields = fields_of(manifest())
    fields[field] = value
    with pytest.raises(ManifestRefusedError) as caught:
        read_manifest(signed(fields), verify, now=NOW)
    assert caught.value.field == field


def test_an_expired_manifest_is_refused() -> None:
    raw = write_manifest(manifest(), ANN.sign)
    with pytest.raises(ManifestRefusedError, match="expired"):
        read_manifest(raw, verify, now=NOW + MANIFEST_LIFE_S + 1)


def test_a_manifest_signed_by_another_is_refused() -> None:
    raw = signed(fields_of(manifest(ANN)), EVE)
    with pytest.raises(ManifestRefusedError, match="sig"):
        read_manifest(raw, verify, now=NOW)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"5",
        b"{",
        b"\xff\xfe",
        b"[" * 2000,
        b'{"a":' * 300,
        b'{"a":{"b":1},"sig":""}',
        b'{"a":1,"a":2,"sig":""}',
        b'{"a":NaN,"sig":""}',
        b'{"a":1e400,"sig":""}',
        b'{"a":' + b"9" * 1900 + b',"sig":""}',
        b'{"filename":"\\ud800","sig":""}',
        b"{}",
        b'{"sig":5}',
        b'{"sig":"!"}',
        b"x" * 2049,
    ],
)
def test_rubbish_is_refused(raw: bytes) -> None:
    with pytest.raises(ManifestRefusedError):
        read_manifest(raw, verify, now=NOW)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_plainly(raw: bytes) -> None:
    with pytest.raises(ManifestRefusedError):
        read_manifest(raw, verify, now=NOW)


@given(data=st.data())
def test_any_changed_bit_is_refused(data: st.DataObject) -> None:
    raw = bytearray(write_manifest(manifest(), ANN.sign))
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[at // 8] ^= 1 << at % 8
    try:
        read = read_manifest(bytes(raw), verify, now=NOW)
    except ManifestRefusedError:
        return
    assert read == manifest()  # spare bits of the base64 signature


def test_a_manifest_of_our_own_is_checked_too() -> None:
    with pytest.raises(PlainError):
        manifest(filename="../x.gguf")
    with pytest.raises(ValueError):
        manifest(piece_length=5)


def test_the_newest_of_a_publisher_counts_and_the_number_of_publishers_is_bounded() -> None:
    old, new = manifest(seq=1, root=1), manifest(seq=2, root=2)
    assert newest([new, old]) == [new]
    assert newest([old, new]) == [new]
    many = [manifest(Publisher(number), root=number + 1) for number in range(MAX_PUBLISHERS + 9)]
    assert newest(many) == many[:MAX_PUBLISHERS]


# ---------------------------------------------------------------- trust


def decide(
    *manifests: Manifest,
    pinned: str | None = None,
    trusted: tuple[Publisher, ...] = (),
    known: str | None = None,
) -> trust.Decision:
    offers = trust.offers_of(manifests, seeders={"01" * 32: 1, "02" * 32: 50}, now=NOW + 5)
    return trust.decide(
        manifest().info_hash,
        offers,
        pinned=pinned,
        trusted=frozenset(item.peer_id for item in trusted),
        known=known,
    )


GOOD, OTHER = manifest(ANN, 1), manifest(BOB, 2)
R1, R2, R3 = "01" * 32, "02" * 32, "03" * 32


def test_pinned_goes_before_everything() -> None:
    assert decide(OTHER, pinned=R1, trusted=(BOB,), known=R2) == trust.Accepted(R1, "pinned", None)
    assert decide(GOOD, OTHER, pinned=R1) == trust.Accepted(R1, "pinned", GOOD)


def test_a_trusted_publisher_goes_before_memory() -> None:
    found = decide(GOOD, OTHER, trusted=(ANN,), known=R2)
    assert found == trust.Accepted(R1, "publisher", GOOD)


def test_memory_goes_before_first_use() -> None:
    assert decide(GOOD, OTHER, known=R1) == trust.Accepted(R1, "remembered", GOOD)
    assert decide(GOOD) == trust.Accepted(R1, "first use", GOOD)


def test_two_contents_stop_with_the_list_whatever_the_number_of_seeders() -> None:
    found = decide(GOOD, OTHER)
    assert isinstance(found, trust.Stopped)
    assert [(offer.root, offer.seeders, offer.publishers) for offer in found.offers] == [
        (R2, 50, (BOB.peer_id,)),
        (R1, 1, (ANN.peer_id,)),
    ]
    assert found.offers[0].age_s == 5
    assert "different contents" in found.error("shard-0.gguf").sentence


def test_other_contents_than_remembered_stop() -> None:
    found = decide(OTHER, known=R1)
    assert isinstance(found, trust.Stopped) and found.expected == R1
    assert "is known with" in found.error("shard-0.gguf").sentence


def test_trusted_publishers_that_disagree_stop() -> None:
    found = decide(GOOD, OTHER, manifest(EVE, 3), trusted=(ANN, BOB))
    assert isinstance(found, trust.Stopped)
    assert {offer.root for offer in found.offers} == {R1, R2}


def test_no_offer_stops_with_an_empty_list() -> None:
    assert decide() == trust.Stopped(())


def test_offers_of_another_file_are_an_error() -> None:
    with pytest.raises(ValueError):
        decide(manifest(filename="other.gguf"))


def test_known_roots_last_and_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "roots.json"
    known = trust.KnownRoots(path)
    assert known.get(GOOD.info_hash) is None
    known.remember(GOOD.info_hash, R1)
    assert trust.KnownRoots(path).get(GOOD.info_hash) == R1
    known.remember(GOOD.info_hash, R2)
    assert trust.KnownRoots(path).get(GOOD.info_hash) == R2
    path.write_text(json.dumps({f"{n:064x}": R3 for n in range(MAX_KNOWN_ROOTS)}))
    full = trust.KnownRoots(path)
    full.remember(GOOD.info_hash, R1)
    again = trust.KnownRoots(path)
    assert again.get(GOOD.info_hash) == R1
    assert again.get(f"{0:064x}") is None
    assert again.get(f"{1:064x}") == R3
    assert [item.name for item in path.parent.iterdir()] == ["roots.json"]
    with pytest.raises(ValueError):
        known.remember("x", R1)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"a":1}', b"[" * 9999, b'{"%s":1}' % (b"0" * 64)]
)
def test_damaged_known_roots_are_not_forgotten_silently(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "roots.json"
    path.write_bytes(content)
    with pytest.raises(PlainError, match="damaged"):
        trust.KnownRoots(path)
    assert path.read_bytes() == content
