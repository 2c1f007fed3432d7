"""Which root is the right one: pinned, signed by a trusted publisher, or first use.

The number of peers offering a root never decides: peers are free to make. Where nothing decides,
the answer is the list of what is on offer, for a person.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from node.errors import PlainError
from node.torrent.limits import MAX_KNOWN_ROOTS
from node.torrent.manifest import Manifest, newest

Why = Literal["pinned", "publisher", "remembered", "first use"]


@dataclass(frozen=True, slots=True)
class Offer:
    """One root on offer for an info hash.

    manifests: what speaks for it, at least one
    seeders:   peers known to serve it
    age_s:     seconds since its newest manifest was made
    """

    root: str
    manifests: tuple[Manifest, ...]
    seeders: int
    age_s: float

    @property
    def publishers(self) -> tuple[str, ...]:
        """The peer ids that signed for this root, sorted."""
        return tuple(sorted(item.publisher for item in self.manifests))


@dataclass(frozen=True, slots=True)
class Accepted:
    """This root is the right one. `manifest` is None when a pinned root is not on offer yet."""

    root: str
    why: Why
    manifest: Manifest | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing decides between the offers: ask the operator.

    `expected` is the root that was remembered or pinned, when the offers differ from it.
    """

    offers: tuple[Offer, ...]
    expected: str | None = None

    def error(self, filename: str) -> PlainError:
        """The list as an error a person reads."""
        listed = ", ".join(f"{offer.root[:16]}… ({offer.seeders} seeders)" for offer in self.offers)
        if self.expected is not None:
            start = f"{filename} is known with root {self.expected[:16]}… but offered as {listed}."
        else:
            start = f"{filename} is offered with different contents: {listed}."
        return PlainError(start, f"Say which one is right with {filename}@ROOT.")


Decision = Accepted | Stopped


class KnownRoots:
    """info hash -> root accepted before, in one small JSON file; the oldest go when it is full."""

    def __init__(self, path: Path) -> None:
        """PlainError when the file exists but is damaged: forgetting silently would be unsafe."""
        self._path = path
        self._roots: dict[str, str] = {}
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._damaged(error.strerror or "unreadable") from error
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self._damaged("not JSON") from error
        if not isinstance(found, dict) or len(found) > MAX_KNOWN_ROOTS:
            raise self._damaged("not a list of roots")
        for key, root in found.items():
            if not _is_hex32(key) or not _is_hex32(root):
                raise self._damaged("a root is malformed")
            self._roots[key] = root

    def _damaged(self, reason: str) -> PlainError:
        return PlainError(
            f"The list of known roots {self._path} is damaged ({reason}).",
            "Move it away to start over; every shard is then accepted on first use again.",
        )

    def get(self, info_hash: str) -> str | None:
        """The root accepted before, in hex."""
        return self._roots.get(info_hash)

    def remember(self, info_hash: str, root: str) -> None:
        """Keep `root` for `info_hash`, durable on return. PlainError when it cannot be written."""
        if not _is_hex32(info_hash) or not _is_hex32(root):
            raise ValueError("a root and an info hash are 64 hex digits")
        if self._roots.get(info_hash) == root:
            return
        changed = {key: value for key, value in self._roots.items() if key != info_hash}
        changed[info_hash] = root
        while len(changed) > MAX_KNOWN_ROOTS:
            del changed[next(iter(changed))]
        try:
            self._write(json.dumps(changed, indent=0).encode("ascii"))
        except OSError as error:
            raise PlainError(
                f"The list of known roots {self._path} cannot be written ({error.strerror}).",
                "Check the free space and the rights of its folder.",
            ) from error
        self._roots = changed

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def offers_of(
    manifests: Iterable[Manifest], *, seeders: Mapping[str, int], now: float
) -> tuple[Offer, ...]:
    """The manifests of one info hash grouped by root, most seeders first (for display only)."""
    by_root: dict[str, list[Manifest]] = {}
    for item in newest(manifests):
        by_root.setdefault(item.root, []).append(item)
    offers = [
        Offer(
            root=root,
            manifests=tuple(items),
            seeders=seeders.get(root, 0),
            age_s=max(0.0, now - max(item.created for item in items)),
        )
        for root, items in by_root.items()
    ]
    return tuple(sorted(offers, key=lambda offer: (-offer.seeders, offer.root)))


def decide(
    info_hash: str,
    offers: Iterable[Offer],
    *,
    pinned: str | None,
    trusted: frozenset[str],
    known: str | None,
) -> Decision:
    """Choose the root for `info_hash`. Pure: the caller remembers what was accepted.

    pinned:  the root the operator or the cluster's plan gave, in hex
    trusted: peer ids of trusted publishers
    known:   KnownRoots.get(info_hash)
    Order: pinned, then the one root trusted publishers sign, then the known root, then first use,
    and that only where a single root is on offer. ValueError when an offer is of another file.
    """
    listed = tuple(offers)
    for offer in listed:
        if any(item.info_hash != info_hash for item in offer.manifests):
            raise ValueError("an offer of another file")
    by_root = {offer.root: offer for offer in listed}
    if pinned is not None:
        return Accepted(pinned, "pinned", _manifest(by_root.get(pinned), trusted))
    signed = [offer for offer in listed if trusted.intersection(offer.publishers)]
    if len(signed) == 1:
        return Accepted(signed[0].root, "publisher", _manifest(signed[0], trusted))
    if len(signed) > 1:
        return Stopped(tuple(signed), known)
    if known is not None:
        if known in by_root:
            return Accepted(known, "remembered", _manifest(by_root[known], trusted))
        return Stopped(listed, known)
    if len(listed) == 1:
        return Accepted(listed[0].root, "first use", _manifest(listed[0], trusted))
    return Stopped(listed)


def _manifest(offer: Offer | None, trusted: frozenset[str]) -> Manifest | None:
    if offer is None:
        return None
    return max(
        offer.manifests, key=lambda item: (item.publisher in trusted, item.created, item.publisher)
    )


def _is_hex32(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
