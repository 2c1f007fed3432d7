"""Which content a name means: pinned, trusted, remembered, first use, or a person's choice."""

from __future__ import annotations

from node.torrent.choosing import Chosen, NotYet, choose
from node.torrent.files import info_hash
from node.torrent.manifest import Manifest, make_manifest
from node.torrent.sizes import piece_length_for
from node.torrent.trust import Offer, Stopped, offers_of

NOW = 1_800_000_000.0
NAME = "shard-1.gguf"
A, B, C = "1" * 44, "2" * 44, "3" * 44
SMALL, LARGE = info_hash(NAME, 1000), info_hash(NAME, 2000)


def word(publisher: str, root: int, size: int = 1000) -> Manifest:
    return make_manifest(
        filename=NAME,
        size=size,
        root=bytes([root]) * 32,
        piece_length=piece_length_for(size),
        publisher=publisher,
        seq=1,
        now=NOW,
    )


def on_offer(*words: Manifest) -> dict[str, tuple[Offer, ...]]:
    found: dict[str, list[Manifest]] = {}
    for item in words:
        found.setdefault(item.info_hash, []).append(item)
    return {key: offers_of(items, seeders={}, now=NOW) for key, items in found.items()}


def decide(
    *words: Manifest,
    pinned: int | None = None,
    trusted: frozenset[str] = frozenset(),
    known: dict[str, int] | None = None,
) -> Chosen | Stopped | NotYet:
    remembered = {key: bytes([root]).hex() * 32 for key, root in (known or {}).items()}
    return choose(
        on_offer(*words),
        pinned=None if pinned is None else bytes([pinned]).hex() * 32,
        trusted=trusted,
        known=remembered.get,
    )


def chosen(found: object) -> tuple[str, str, str]:
    assert isinstance(found, Chosen), found
    assert found.accepted.manifest is not None
    assert found.accepted.manifest.info_hash == found.info_hash
    return found.info_hash, found.accepted.root[:2], found.accepted.why


def test_nothing_on_offer_is_not_yet() -> None:
    assert decide() == NotYet("no peer offers it")
    assert choose({SMALL: ()}, pinned=None, trusted=frozenset(), known=lambda key: None) == NotYet(
        "no peer offers it"
    )


def test_a_single_content_is_taken_on_first_use() -> None:
    assert chosen(decide(word(A, 1), word(B, 1))) == (SMALL, "01", "first use")


def test_two_roots_or_two_sizes_stop_with_the_list() -> None:
    for words in ((word(A, 1), word(B, 2)), (word(A, 1), word(B, 1, size=2000))):
        found = decide(*words)
        assert isinstance(found, Stopped)
        assert len(found.offers) == 2


def test_more_seeders_are_no_argument() -> None:
    offers = {
        SMALL: offers_of([word(A, 1), word(B, 2)], seeders={"01" * 32: 99}, now=NOW),
    }
    found = choose(offers, pinned=None, trusted=frozenset(), known=lambda key: None)
    assert isinstance(found, Stopped)


def test_the_pinned_root_wins_over_everything_and_is_waited_for() -> None:
    words = (word(A, 1), word(B, 2), word(C, 3, size=2000))
    trusted = frozenset([A])
    assert chosen(decide(*words, pinned=3, trusted=trusted, known={SMALL: 1})) == (
        LARGE,
        "03",
        "pinned",
    )
    found = decide(*words, pinned=9, trusted=trusted)
    assert isinstance(found, NotYet) and "pinned root" in found.reason


def test_a_trusted_publisher_decides_between_roots_and_sizes() -> None:
    trusted = frozenset([B])
    assert chosen(decide(word(A, 1), word(B, 2), trusted=trusted)) == (SMALL, "02", "publisher")
    assert chosen(decide(word(A, 1), word(B, 2, size=2000), trusted=trusted)) == (
        LARGE,
        "02",
        "publisher",
    )
    both = decide(word(A, 1), word(B, 2, size=2000), trusted=frozenset([A, B]))
    assert isinstance(both, Stopped)


def test_what_was_accepted_before_stays_right() -> None:
    assert chosen(decide(word(A, 1), word(B, 2), known={SMALL: 2})) == (SMALL, "02", "remembered")
    assert chosen(decide(word(A, 1), word(B, 2, size=2000), known={LARGE: 2})) == (
        LARGE,
        "02",
        "remembered",
    )
    found = decide(word(A, 1), known={SMALL: 7})
    assert isinstance(found, Stopped) and found.expected == "07" * 32
