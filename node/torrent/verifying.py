"""Checking files against the roots that are known for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.clean import clean
from node.errors import PlainError
from node.torrent.files import info_hash
from node.torrent.hashing import Progress, hash_file
from node.torrent.trust import KnownRoots


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that was hashed.

    root, info_hash: in hex; size: bytes
    matches:  who knows the file with this root, such as "given", "pinned" or a node's name
    differs:  (who, root) of everyone who knows it with another one
    """

    path: Path
    size: int
    root: str
    info_hash: str
    matches: tuple[str, ...]
    differs: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool | None:
        """True: it is what is known. False: only other roots are. None: nothing is known."""
        if self.matches:
            return True
        return False if self.differs else None


def verify_file(
    path: Path,
    *,
    given: str | None,
    pins: Mapping[str, str],
    known: Mapping[str, KnownRoots],
    progress: Progress | None = None,
) -> Verified:
    """Hash `path` and compare: with `given` alone, else with its pin alone, else with `known`.

    pins: file name -> root; known: node name -> the roots it remembers. Raises as hash_file does.
    """
    hashes = hash_file(path, progress=progress)
    size, root = hashes.layout.size, hashes.root.hex()
    key = info_hash(path.name, size)
    if given is not None:
        expected = {"given": given}
    elif path.name in pins:
        expected = {"pinned": pins[path.name]}
    else:
        found = {name: roots.get(key) for name, roots in known.items()}
        expected = {name: item for name, item in found.items() if item is not None}
    return Verified(
        path=path,
        size=size,
        root=root,
        info_hash=key,
        matches=tuple(name for name, item in expected.items() if item == root),
        differs=tuple((name, item) for name, item in expected.items() if item != root),
    )


def remembered(data_dir: Path, names: Sequence[str] | None) -> dict[str, KnownRoots]:
    """The remembered roots of these nodes of this user, of all of them where `names` is None.

    Raises PlainError where a list is damaged, and where no node of that name ever ran here.
    """
    for name in names or ():
        if not (data_dir / name).is_dir():
            raise PlainError(
                f"No node named {clean(name, 64)} has run here.",
                "Leave --name out to compare with what any node of yours remembers.",
            )
    if names is None:
        try:
            names = sorted(item.name for item in data_dir.iterdir() if item.is_dir())
        except OSError:
            names = ()
    found = {name: data_dir / name / "roots.json" for name in names}
    return {name: KnownRoots(path) for name, path in found.items() if path.is_file()}
