"""From what is on offer under a file name to the one content that is to be fetched.

One name may come in several sizes (each its own info hash), and one info hash with several roots.
Pinned, trusted publisher, remembered and first use decide in this order; else a person does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from node.torrent.trust import Accepted, Offer, Stopped, decide

Offers = Mapping[str, tuple[Offer, ...]]
"""Info hash -> the contents on offer under it."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """This content. `accepted.manifest` is there: it gives size and piece length."""

    info_hash: str
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class NotYet:
    """Nothing fits so far; `reason` is a clause for the operator."""

    reason: str


def choose(
    offers: Offers,
    *,
    pinned: str | None,
    trusted: frozenset[str],
    known: Callable[[str], str | None],
) -> Chosen | Stopped | NotYet:
    """The content to fetch of all that is on offer under one name. Pure.

    pinned: the root the operator gave for this name, in hex
    known:  KnownRoots.get
    """
    offers = {info_hash: items for info_hash, items in offers.items() if items}
    if not offers:
        return NotYet("no peer offers it")
    if pinned is not None:
        return _pinned(offers, pinned, trusted)
    decisions = {
        info_hash: decide(info_hash, items, pinned=None, trusted=trusted, known=known(info_hash))
        for info_hash, items in offers.items()
    }
    for why in ("publisher", "remembered"):
        found = [
            Chosen(info_hash, item)
            for info_hash, item in decisions.items()
            if isinstance(item, Accepted) and item.why == why
        ]
        if len(found) == 1:
            return found[0]
        if found:
            break
    if len(decisions) == 1:
        ((info_hash, decision),) = decisions.items()
        return Chosen(info_hash, decision) if isinstance(decision, Accepted) else decision
    return Stopped(tuple(offer for items in offers.values() for offer in items))


def _pinned(offers: Offers, pinned: str, trusted: frozenset[str]) -> Chosen | NotYet:
    for info_hash, items in offers.items():
        if any(offer.root == pinned for offer in items):
            found = decide(info_hash, items, pinned=pinned, trusted=trusted, known=None)
            if isinstance(found, Accepted) and found.manifest is not None:
                return Chosen(info_hash, found)
    return NotYet(f"no peer offers the pinned root {pinned[:16]}…")
