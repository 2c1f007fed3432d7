"""The signed manifest: which root, size and piece length a publisher gives a file name.

JSON of at most 2 KiB, one level deep, integers only, signed over its canonical form (UTF-8, sorted
keys, no spaces, everything but `sig`). `read_manifest` is the only way in.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec

from node.clean import clean
from node.errors import PlainError
from node.torrent.files import info_hash
from node.torrent.limits import (
    MANIFEST_AHEAD_S,
    MANIFEST_LIFE_S,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_PUBLISHERS,
)
from node.torrent.names import SUFFIXES, check_name
from node.torrent.sizes import Layout, check_piece_length

ALGORITHM = "bep52-sha256"
VERSION = 2
DOMAIN = b"llama-shard manifest v1\0"

Signer = Callable[[bytes], bytes]
"""sign(data) -> signature of this node."""
Verifier = Callable[[str, bytes, bytes], bool]
"""verify(peer id, data, signature) -> whether that peer signed the data."""

Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Time = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class ManifestRefusedError(Exception):
    """A manifest that is not believed. `field` is what was wrong, `reason` one clean clause."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A publisher's word on one file. Times in unix seconds, sizes in bytes, hashes in hex.

    created, expires: not believed before (allowing for clock skew) and after
    publisher:        the peer id that signed
    seq:              grows with every manifest of this publisher for this info hash
    """

    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
    info_hash: Hex32
    root: Hex32
    piece_length: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    publisher: Annotated[
        str, msgspec.Meta(min_length=40, max_length=128, pattern=r"^[A-Za-z0-9]+\Z")
    ]
    seq: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    created: Time
    expires: Time
    algo: str = ALGORITHM
    v: int = VERSION

    @property
    def layout(self) -> Layout:
        """How the file is cut."""
        return Layout(self.size, self.piece_length)


def make_manifest(
    *,
    filename: str,
    size: int,
    root: bytes,
    piece_length: int,
    publisher: str,
    seq: int,
    now: float,
    life_s: int = MANIFEST_LIFE_S,
) -> Manifest:
    """A manifest of our own. PlainError for a bad name, ValueError for a cut we do not move."""
    check_name(filename)
    check_piece_length(size, piece_length)
    return Manifest(
        filename=filename,
        size=size,
        info_hash=info_hash(filename, size),
        root=root.hex(),
        piece_length=piece_length,
        publisher=publisher,
        seq=seq,
        created=int(now),
        expires=int(now) + life_s,
    )


def write_manifest(manifest: Manifest, sign: Signer) -> bytes:
    """The signed manifest as canonical JSON. ValueError above MAX_MANIFEST_BYTES."""
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    fields["sig"] = base64.b64encode(sign(_signed_bytes(fields))).decode("ascii")
    encoded = _canonical(fields)
    if len(encoded) > MAX_MANIFEST_BYTES:
        raise ValueError(f"the manifest has {len(encoded)} bytes, {MAX_MANIFEST_BYTES} are allowed")
    return encoded


def read_manifest(
    raw: bytes, verify: Verifier, *, now: float, suffixes: tuple[str, ...] = SUFFIXES
) -> Manifest:
    """Check a stranger's manifest, cheap checks first, the signature last.

    Unknown keys are covered by the signature and otherwise ignored. Raises ManifestRefusedError.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ManifestRefusedError(
            "manifest", f"{len(raw)} bytes, {MAX_MANIFEST_BYTES} are allowed"
        )
    fields = _flat(raw)
    signature = _signature(fields)
    try:
        found = msgspec.convert(fields, Manifest)
    except msgspec.ValidationError as error:
        raise ManifestRefusedError(_field_of(error), clean(error, 160)) from error
    if found.algo != ALGORITHM:
        raise ManifestRefusedError("algo", f"'{clean(found.algo, 40)}' is not {ALGORITHM}")
    if found.v != VERSION:
        raise ManifestRefusedError("v", f"{found.v} is not {VERSION}")
    try:
        check_name(found.filename, suffixes=suffixes)
    except PlainError as error:
        raise ManifestRefusedError("filename", error.sentence) from error
    if info_hash(found.filename, found.size) != found.info_hash:
        raise ManifestRefusedError("info_hash", "does not follow from filename and size")
    try:
        check_piece_length(found.size, found.piece_length)
    except ValueError as error:
        raise ManifestRefusedError("piece_length", str(error)) from error
    _check_times(found, now)
    if not verify(found.publisher, _signed_bytes(fields), signature):
        raise ManifestRefusedError("sig", "not signed by its publisher")
    return found


def newest(manifests: Iterable[Manifest]) -> list[Manifest]:
    """One manifest per (info hash, publisher): the highest seq, then the newest, then the root.

    Per info hash at most MAX_PUBLISHERS, the first ones given stay.
    """
    best: dict[tuple[str, str], Manifest] = {}
    publishers: dict[str, int] = {}
    for item in manifests:
        key = (item.info_hash, item.publisher)
        known = best.get(key)
        if known is None:
            if publishers.get(item.info_hash, 0) >= MAX_PUBLISHERS:
                continue
            publishers[item.info_hash] = publishers.get(item.info_hash, 0) + 1
            best[key] = item
        elif (item.seq, item.created, item.root) > (known.seq, known.created, known.root):
            best[key] = item
    return list(best.values())


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(
        fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def _signed_bytes(fields: dict[str, Any]) -> bytes:
    return DOMAIN + _canonical({name: item for name, item in fields.items() if name != "sig"})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ManifestRefusedError("manifest", "a key comes twice")
    return fields


def _flat(raw: bytes) -> dict[str, Any]:
    # Nesting is counted on the raw bytes: a parser may already recurse on `[[[[…`.
    try:
        text = raw.decode("utf-8")
        if _nested(text):
            raise ManifestRefusedError("manifest", "nested")
        fields = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ManifestRefusedError("manifest", "not JSON") from error
    if not isinstance(fields, dict):
        raise ManifestRefusedError("manifest", "not a JSON object")
    for name, item in fields.items():
        if isinstance(item, float):
            raise ManifestRefusedError(clean(name, 40), "not an integer")
    try:
        _canonical(fields)
    except ValueError as error:
        raise ManifestRefusedError("manifest", "cannot be canonicalised") from error
    return fields


def _nested(text: str) -> bool:
    depth = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
            if depth > 1:
                return True
    return False


def _signature(fields: dict[str, Any]) -> bytes:
    value = fields.get("sig")
    if not isinstance(value, str):
        raise ManifestRefusedError("sig", "missing")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ManifestRefusedError("sig", "not base64") from error


def _check_times(found: Manifest, now: float) -> None:
    if found.created > now + MANIFEST_AHEAD_S:
        raise ManifestRefusedError("created", f"{found.created - now:.0f} s in the future")
    if not 0 < found.expires - found.created <= MANIFEST_LIFE_S:
        raise ManifestRefusedError("expires", f"not within {MANIFEST_LIFE_S} s after created")
    if found.expires < now:
        raise ManifestRefusedError("expires", f"expired {now - found.expires:.0f} s ago")


def _field_of(error: msgspec.ValidationError) -> str:
    text = str(error)
    for opening in ("at `$.", "required field `"):
        if opening in text:
            return clean(text.split(opening, 1)[1].split("`", 1)[0], 40)
    return "manifest"
