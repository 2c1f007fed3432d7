"""The manifests this node keeps of files it has: its own word, and the publishers' it came by."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from node.torrent.limits import MAX_MANIFEST_BYTES
from node.torrent.manifest import Manifest, ManifestRefusedError, Verifier, read_manifest

MAX_KEPT = 512


class ManifestStore:
    """Manifests of finished downloads by root, so that a publisher's word outlives a restart."""

    def __init__(self, folder: Path, verify: Verifier) -> None:
        self._folder = folder
        self._verify = verify

    def put(self, root: str, raw: bytes) -> None:
        """Keep a checked manifest. Blocking; a full disk only means that it is not kept."""
        path = self._folder / f"{root}.json"
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_bytes(raw)
            os.replace(temporary, path)
            kept = sorted(self._folder.glob("*.json"), key=lambda item: item.stat().st_mtime)
            for old in kept[: max(0, len(kept) - MAX_KEPT)]:
                old.unlink(missing_ok=True)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def get(self, root: str, now: float) -> tuple[Manifest, bytes] | None:
        """The kept manifest while it has not expired. Blocking."""
        try:
            path = self._folder / f"{root}.json"
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                return None
            raw = path.read_bytes()
            found = read_manifest(raw, self._verify, now=now)
        except (OSError, ManifestRefusedError):
            return None
        return (found, raw) if found.root == root else None
