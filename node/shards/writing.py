"""Write planned shards: copy tensors in chunks, hash each once, sign the shards with the result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path

from node.clean import clean
from node.errors import PlainError
from node.shards import encode
from node.shards.cutting import FINGERPRINT_PLACEHOLDER, ShardPlan
from node.shards.header import Header, KeyValue

Progress = Callable[[int, int], None]

CHUNK_BYTES = 4 << 20


class ShardWriter:
    """Writes the shards of one model. Holds one chunk of tensor data at a time.

    Every tensor of the model passes through here at least once, so the digest of the whole model
    costs no second reading; it is known only at the end and then patched into each shard.
    """

    def __init__(self, header: Header, plans: Sequence[ShardPlan], model: FileIO) -> None:
        self._header = header
        self._plans = plans
        self._model = model
        self._digests: dict[str, bytes] = {}
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._heads = [self._head(plan) for plan in plans]
        self.sizes = [
            len(head) + sum(map(self._stored, plan.tensors))
            for head, plan in zip(self._heads, plans, strict=True)
        ]

    def write(self, paths: Sequence[Path], on_progress: Progress | None = None) -> str:
        """Write shard i to `paths[i]` and return the model's fingerprint (SHA-256, hex).

        Raises OSError where a write fails, PlainError where the model shrinks meanwhile.
        """
        total = sum(self.sizes)
        written = 0
        for plan, head, path in zip(self._plans, self._heads, paths, strict=True):
            with path.open("wb", buffering=0) as file:
                for chunk in self._contents(plan, head):
                    write_all(file, chunk)
                    written += len(chunk)
                    if on_progress is not None:
                        on_progress(written, total)
        fingerprint = self._fingerprint()
        for head, path in zip(self._heads, paths, strict=True):
            with path.open("r+b", buffering=0) as file:
                file.seek(head.rindex(FINGERPRINT_PLACEHOLDER.encode()))
                write_all(file, fingerprint.encode())
                os.fsync(file.fileno())
        return fingerprint

    def _contents(self, plan: ShardPlan, head: bytes) -> Iterator[bytes | memoryview]:
        yield head
        for source in plan.sources:
            pad = bytes(encode.padding(source.plan.nbytes, self._header.alignment))
            if source.tensor is None:
                yield source.made + pad
                continue
            known = source.tensor.name in self._digests
            digest = hashlib.sha256()
            for chunk in self._read(source.tensor.offset, source.tensor.nbytes):
                if not known:
                    digest.update(chunk)
                yield chunk
            if not known:
                self._digests[source.tensor.name] = digest.digest()
            if pad:
                yield pad

    def _head(self, plan: ShardPlan) -> bytes:
        records = [
            self._record(record) if isinstance(record, KeyValue) else record
            for record in plan.records
        ]
        return encode.header(records, plan.tensors, self._header.alignment)

    def _record(self, record: KeyValue) -> bytes:
        return b"".join(map(bytes, self._read(record.start, record.end - record.start)))

    def _stored(self, plan: encode.TensorPlan) -> int:
        return plan.nbytes + encode.padding(plan.nbytes, self._header.alignment)

    def _fingerprint(self) -> str:
        total = hashlib.sha256()
        for chunk in self._read(0, self._header.data_start):
            total.update(chunk)
        for name in self._header.tensors:
            total.update(self._digests[name])
        return total.hexdigest()

    def _read(self, start: int, nbytes: int) -> Iterator[memoryview]:
        """Yield the bytes in chunks, each valid only until the next."""
        self._model.seek(start)
        while nbytes:
            view = self._buffer[: min(nbytes, CHUNK_BYTES)]
            count = self._model.readinto(view)
            if not count:
                raise PlainError(
                    f"{clean(self._header.path.name, 120)} became shorter while it was read.",
                    "Let nothing write to the model and cut it again.",
                )
            yield view[:count]
            nbytes -= count


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
