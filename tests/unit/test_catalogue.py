"""The catalogue believes signed manifests only, and stays within its limits."""

from __future__ import annotations

import pytest

from node.network.identity import Identity, verify
from node.torrent import catalogue as module
from node.torrent.catalogue import Catalogue
from node.torrent.files import info_hash
from node.torrent.manifest import (
    Manifest,
    ManifestRefusedError,
    make_manifest,
    write_manifest,
)
from node.torrent.sizes import piece_length_for

NOW = 1_800_000_000.0
ONE, TWO = Identity.create(), Identity.create()
SIZE = 1_000_000
KEY = info_hash("shard-1.gguf", SIZE)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def manifest(
    identity: Identity = ONE,
    root: bytes = b"\1" * 32,
    name: str = "shard-1.gguf",
    size: int = SIZE,
    seq: int = 1,
    now: float = NOW,
) -> bytes:
    made = make_manifest(
        filename=name,
        size=size,
        root=root,
        piece_length=piece_length_for(size),
        publisher=identity.peer_id,
        seq=seq,
        now=now,
    )
    return write_manifest(made, identity.sign)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(clock: Clock) -> Catalogue:
    return Catalogue(verify, clock)


def roots(catalogue: Catalogue, key: str = KEY) -> list[str]:
    return sorted(offer.root[:2] for offer in catalogue.offers(key))


def test_what_a_peer_lists_is_found_by_name_and_by_hash(catalogue: Catalogue) -> None:
    assert catalogue.take(manifest(), ["p1"])
    assert not catalogue.take(manifest(), ["p1"]), "known already"
    assert catalogue.take(manifest(), ["p2"]), "a new peer is news"
    assert catalogue.named("shard-1.gguf") == [KEY] == catalogue.files()
    assert catalogue.peers_with(KEY, ("01" * 32)) == {"p1", "p2"}
    (offer,) = catalogue.offers(KEY)
    assert (offer.seeders, offer.publishers) == (2, (ONE.peer_id,))


def test_a_forged_manifest_is_refused(catalogue: Catalogue) -> None:
    forged = manifest().replace(b'"seq":1', b'"seq":2')
    with pytest.raises(ManifestRefusedError, match="sig"):
        catalogue.take(forged, ["p1"])
    assert catalogue.files() == []


def test_a_publisher_has_one_word_on_a_file_its_newest(catalogue: Catalogue) -> None:
    catalogue.take(manifest(root=b"\1" * 32, seq=1), ["p1"])
    catalogue.take(manifest(root=b"\2" * 32, seq=2), ["p1"])
    assert roots(catalogue) == ["02"]
    with pytest.raises(ManifestRefusedError, match="newer"):
        catalogue.take(manifest(root=b"\1" * 32, seq=1), ["p1"])
    assert roots(catalogue) == ["02"], "an old word is not heard again"
    catalogue.take(manifest(TWO, root=b"\3" * 32), ["p2"])
    assert roots(catalogue) == ["02", "03"]


def test_expired_manifests_are_not_on_offer(catalogue: Catalogue, clock: Clock) -> None:
    catalogue.take(manifest(), ["p1"])
    clock.now += 49 * 3600
    assert catalogue.offers(KEY) == ()
    assert catalogue.named("shard-1.gguf") == []
    assert catalogue.files() == []


def test_a_peers_whole_list_replaces_what_it_had(catalogue: Catalogue) -> None:
    other = info_hash("shard-2.gguf", SIZE)
    catalogue.take(manifest(), ["p1"])
    catalogue.take(manifest(name="shard-2.gguf"), ["p1", "p2"])
    assert catalogue.places_of("p1") == {(KEY, "01" * 32), (other, "01" * 32)}
    assert catalogue.keep_only("p1", {(KEY, "01" * 32)}) == [other]
    assert catalogue.peers_with(other, "01" * 32) == {"p2"}
    catalogue.forget("p1")
    assert catalogue.peers_with(KEY, "01" * 32) == set()


def test_one_peer_cannot_fill_it_and_the_first_stay(
    catalogue: Catalogue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 4)
    monkeypatch.setattr(module, "MAX_FILES_PER_PEER", 3)
    for number in range(4):
        catalogue.take(manifest(name=f"f{number}.gguf"), ["p1"])
    with pytest.raises(ManifestRefusedError, match="full"):
        catalogue.take(manifest(name="f9.gguf"), ["p2"])
    assert len(catalogue.files()) == 4
    assert len(catalogue.places_of("p1")) == 3
    clock.now += 49 * 3600
    assert catalogue.take(manifest(name="f9.gguf", now=clock.now), ["p2"]), "expired ones make room"


def test_publishers_of_a_file_are_bounded(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PUBLISHERS", 2)
    catalogue.take(manifest(ONE), ["p1"])
    catalogue.take(manifest(TWO), ["p1"])
    with pytest.raises(ManifestRefusedError, match="publishers"):
        catalogue.take(manifest(Identity.create()), ["p1"])


def test_what_was_read_can_be_entered_without_reading_it_again(catalogue: Catalogue) -> None:
    raw = manifest()
    read = catalogue.read(raw)
    assert isinstance(read, Manifest)
    assert catalogue.take(raw, [], read)
    assert catalogue.entries(KEY)[0].raw == raw
    assert catalogue.peers_with(KEY, read.root) == set()


def test_invented_names_do_not_lock_shards_out(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 4)
    catalogue = Catalogue(verify, clock, primary=lambda name: name.startswith("shard-"))
    for number in range(4):
        catalogue.take(manifest(name=f"f{number}.gguf"), ["evil"])
    for number in range(4):
        assert catalogue.take(manifest(TWO, name=f"shard-{number}.gguf"), ["p1"])
        with pytest.raises(ManifestRefusedError, match="full"):
            catalogue.take(manifest(name=f"more{number}.gguf"), ["evil"])
    assert [catalogue.named(f"shard-{number}.gguf") != [] for number in range(4)] == [True] * 4
    with pytest.raises(ManifestRefusedError, match="full"):
        catalogue.take(manifest(TWO, name="shard-9.gguf"), ["p1"])


def test_the_sizes_under_one_name_are_bounded(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SIZES", 2)
    for size in (SIZE, SIZE + 1):
        catalogue.take(manifest(size=size), ["p1"])
    with pytest.raises(ManifestRefusedError, match="sizes"):
        catalogue.take(manifest(size=SIZE + 2), ["p1"])
    catalogue.take(manifest(TWO), ["p2"])
