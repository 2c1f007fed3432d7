"""The list of a cut model's shard files, written beside them as `manifest.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """One written shard: layers [layer_start, layer_end), size in bytes, info hash in hex."""

    shard_id: int
    path: Path
    filename: str
    size: int
    layer_start: int
    layer_end: int
    info_hash: str


def manifest_bytes(
    *,
    model_name: str,
    fingerprint: str,
    architecture: str,
    quantization: str,
    total_layers: int,
    shards: Sequence[SplitResult],
) -> bytes:
    """The manifest as indented JSON, the same bytes for the same cut."""
    document = {
        "format": MANIFEST_FORMAT,
        "model_name": model_name,
        "model_fingerprint": fingerprint,
        "architecture": architecture,
        "quantization": quantization,
        "total_layers": total_layers,
        "total_shards": len(shards),
        "shards": [
            {
                "shard_id": shard.shard_id,
                "filename": shard.filename,
                "size": shard.size,
                "layer_start": shard.layer_start,
                "layer_end": shard.layer_end,
                "info_hash": shard.info_hash,
            }
            for shard in shards
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8") + b"\n"
