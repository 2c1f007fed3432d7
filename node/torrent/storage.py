"""An unfinished download on disk: a part file, its state file, and their crash safety.

Invariant: a piece stands in the journal only after its bytes were verified and durable. So kill -9
or a power loss costs what was written since the last checkpoint (64 MiB or 5 s), never a wrong
byte. Everything here blocks: call it from worker threads. `write` may run in several threads at
once, also beside `checkpoint`.
"""

from __future__ import annotations

import contextlib
import random
import threading

from node.torrent.disk_errors import (
    FULL,
    DiskFailedError,
    DiskFullError,
    NameTakenError,
    PiecesLostError,
    SyncFailedError,
)
from node.torrent.folder import Folder
from node.torrent.hashing import Progress, hash_pieces
from node.torrent.limits import CHECKPOINT_BYTES, CHECKPOINT_S
from node.torrent.merkle import layer_matches, node_at
from node.torrent.names import SUFFIXES, check_name, part_name, state_name
from node.torrent.pieces import VerifiedPiece
from node.torrent.resume import max_bytes
from node.torrent.sizes import Layout
from node.torrent.starting import Start, start
from node.torrent.state_file import StateFile, write_all


class Part:
    """One unfinished download, owned by this object until `close`.

    have:      pieces durable when it was opened
    restarted: whether another process (or an earlier object) began it
    recheck:   what was read again on opening: "none", "sample" or "full"; `reason` says why
    complete:  the file already has its final name (a crash fell between link and cleaning up);
               only `close` is left to do
    """

    def __init__(
        self, folder: Folder, name: str, info_hash: str, root: bytes, layout: Layout, layer: bytes
    ) -> None:
        self.name = name
        self.layout = layout
        self.layer = layer
        self.root = root
        self.info_hash = info_hash
        self.have: frozenset[int] = frozenset()
        self.restarted = False
        self.recheck = "none"
        self.reason = ""
        self.complete = False
        self._folder = folder
        self._part: int | None = None
        self._state: StateFile | None = None
        self._identity = (0, 0)
        self._refused = 0
        self._durable: set[int] = set()
        self._pending: list[int] = []
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._failure: OSError | None = None
        self._lock = threading.Lock()
        self._checkpointing = threading.Lock()

    @classmethod
    def open(
        cls,
        folder: Folder,
        name: str,
        *,
        info_hash: str,
        root: bytes,
        layout: Layout,
        layer: bytes,
        rng: random.Random | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        suffixes: tuple[str, ...] = SUFFIXES,
    ) -> Part:
        """Create the part file for `name`, or take an earlier one over, and make room for it all.

        `layer` is the piece layer proven against `root` (ValueError otherwise), `info_hash` in hex.
        What an earlier download left is believed only as far as it was checked again: its last
        record and 64 random pieces, or every piece where anything does not fit. Raises
        NameTakenError, InUseError, OtherContentsError, DiskFullError (before the first byte),
        DiskFailedError, PlainError for a bad name or an odd file, HashingStopped after `stop`.
        """
        check_name(name, suffixes=suffixes)
        if not layer_matches(layer, layout, root):
            raise ValueError("the piece layer does not match the root")
        part = cls(folder, name, info_hash, root, layout, layer)
        try:
            found = start(
                folder,
                name,
                info_hash=bytes.fromhex(info_hash),
                root=root,
                layout=layout,
                layer=layer,
                rng=rng or random.Random(),
                progress=progress,
                stop=stop,
            )
            part._begin(found)
        except OSError as error:
            plain = part._plain("opened", error, max_bytes(layout))
            part.close()
            raise plain from error
        except BaseException:
            part.close()
            raise
        return part

    def _begin(self, found: Start) -> None:
        self._part = found.handle
        self._identity = found.identity
        self._state = StateFile(
            self._folder,
            self.name,
            info_hash=bytes.fromhex(self.info_hash),
            root=self.root,
            layout=self.layout,
            layer=self.layer,
            identity=found.identity,
            generation=found.generation,
        )
        self._durable = set(found.pieces)
        self.have = frozenset(found.pieces)
        self.restarted = found.restarted
        self.recheck, self.reason = found.recheck, found.reason
        self.complete = found.complete
        if self.restarted:
            # What was read again may still be in the cache only.
            self._folder.sync(found.handle)
        if self.complete:
            # The link may not be durable yet, and the part's name must not go before it.
            self._folder.sync_names()
            self._clean_up()
        else:
            self._state.replace(self._durable, restarted=self.restarted)

    # ------------------------------------------------------------ data

    def write(self, piece: VerifiedPiece, now: float) -> None:
        """Write a verified piece in place; it is durable after the next `checkpoint`.

        A piece written before is left alone. `now` is the monotonic clock the checkpoints are
        timed with. DiskFullError: free the bytes and call again; DiskFailedError; SyncFailedError
        after a failed sync.
        """
        handle = self._usable()
        with self._lock:
            if piece.index in self._durable or piece.index in self._pending:
                return
        try:
            offset = self.layout.offset(piece.index)
            for part in piece.parts:
                write_all(self._folder, handle, part, offset)
                offset += len(part)
        except OSError as error:
            self._refused = piece.size
            raise self._plain("written", error, piece.size) from error
        with self._lock:
            self._refused = 0
            if piece.index in self._pending:
                return
            if not self._pending:
                self._pending_since = now
            self._pending.append(piece.index)
            self._pending_bytes += piece.size

    def read(self, piece: int, offset: int, length: int) -> bytes:
        """Bytes of a piece that was written, for serving it meanwhile.

        ValueError when the piece was not written yet; DiskFailedError.
        """
        handle = self._usable()
        with self._lock:
            if piece not in self._durable and piece not in self._pending:
                raise ValueError(f"piece {piece} is not written")
        if offset < 0 or offset + length > self.layout.piece_size(piece):
            raise ValueError("outside the piece")
        buffer = bytearray(length)
        view = memoryview(buffer)
        done = 0
        try:
            while done < length:
                count = self._folder.read(
                    handle, view[done:], self.layout.offset(piece) + offset + done
                )
                if count <= 0:
                    raise OSError(0, "the file ends early")
                done += count
        except OSError as error:
            raise self._plain("read", error) from error
        return bytes(buffer)

    def written(self) -> frozenset[int]:
        """The pieces on disk, durable or not."""
        with self._lock:
            return frozenset(self._durable.union(self._pending))

    def missing_bytes(self) -> int:
        """How many bytes the disk lacks for the rest of this file right now; 0 when there is room.

        What a paused download asks before it goes on.
        """
        handle = self._usable()
        try:
            need = max(self.layout.size - self._folder.facts(handle).allocated, self._refused)
            return max(0, need - self._folder.free()) if need > 0 else 0
        except OSError as error:
            raise self._plain("examined", error) from error

    # ------------------------------------------------------------ durability

    def checkpoint_due(self, now: float) -> bool:
        """Whether 64 MiB were written since the last checkpoint, or something 5 s ago."""
        with self._lock:
            if not self._pending:
                return False
            return (
                self._pending_bytes >= CHECKPOINT_BYTES or now - self._pending_since >= CHECKPOINT_S
            )

    def checkpoint(self) -> list[int]:
        """Make durable what was written until now: sync data, append one record, sync it.

        Returns the pieces that became durable. SyncFailedError: nothing of this object can be used
        any more, close it and open the part again. DiskFullError: the state file could not grow,
        call again later.
        """
        with self._checkpointing:
            handle = self._usable()
            with self._lock:
                batch, size = self._pending[:], self._pending_bytes
            if not batch:
                return []
            try:
                self._folder.sync_data(handle)
            except OSError as error:
                raise self._spoil(error) from error
            self._append(batch)
            with self._lock:
                del self._pending[: len(batch)]
                self._pending_bytes -= size
                self._durable.update(batch)
            return batch

    def _append(self, pieces: list[int]) -> None:
        state = self._state_file()
        try:
            size = state.append(pieces)
        except OSError as error:
            if error.errno in FULL:
                raise self._plain("written", error) from error
            raise self._spoil(error) from error
        try:
            state.sync(size)
        except OSError as error:
            raise self._spoil(error) from error

    def finish(
        self, *, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> None:
        """Give the complete file its final name and remove part and state.

        A download that was taken over is read and hashed once more before: PiecesLostError names
        what has to be fetched again. NameTakenError when the name appeared meanwhile: nothing is
        lost, call again. ValueError while pieces are missing.
        """
        self.checkpoint()
        handle = self._usable()
        if len(self._durable) != self.layout.pieces:
            raise ValueError(f"{self.layout.pieces - len(self._durable)} pieces are missing")
        try:
            if self.restarted:
                self._check_all(handle, progress, stop)
            self._sync_part(handle)
            facts = self._folder.facts(handle)
            if facts.size != self.layout.size or facts.links != 1:
                raise OSError(0, "something else changed it")
            named = self._folder.facts_of(part_name(self.name))
            if named is None or (named.device, named.inode) != self._identity:
                raise OSError(0, "something else replaced it")
            self._folder.link(part_name(self.name), self.name)
            self._folder.sync_names()
            self._clean_up()
        except FileExistsError as error:
            raise NameTakenError(self.name) from error
        except OSError as error:
            raise self._plain("finished", error) from error
        self.complete = True
        self.close()

    def _sync_part(self, handle: int) -> None:
        try:
            self._folder.sync(handle)
        except OSError as error:
            raise self._spoil(error) from error

    def _check_all(
        self, handle: int, progress: Progress | None, stop: threading.Event | None
    ) -> None:
        found = hash_pieces(
            lambda view, offset: self._folder.read(handle, view, offset),
            self.layout,
            range(self.layout.pieces),
            progress=progress,
            stop=stop,
        )
        lost = [
            piece
            for piece in range(self.layout.pieces)
            if found.get(piece) != node_at(self.layer, piece)
        ]
        if lost:
            with self._lock:
                self._durable.difference_update(lost)
            self._state_file().replace(self._durable, restarted=True)
            raise PiecesLostError(lost)

    def _clean_up(self) -> None:
        self._folder.unlink(part_name(self.name))
        self._folder.unlink(state_name(self.name))
        self._folder.sync_names()

    def discard(self) -> None:
        """Cancel: remove part and state and close. DiskFailedError when they cannot be removed."""
        try:
            # The state goes first: without it nothing of the part is believed.
            self._folder.unlink(state_name(self.name))
            self._folder.unlink(part_name(self.name))
            self._folder.sync_names()
        except OSError as error:
            raise self._plain("removed", error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Let the files go, without a checkpoint; a second call does nothing."""
        if self._state is not None:
            self._state.close()
        if self._part is not None:
            self._folder.close(self._part)
        self._state = self._part = None

    # ------------------------------------------------------------ inside

    def _usable(self) -> int:
        if self._failure is not None:
            raise SyncFailedError(self.name, self._failure)
        if self._part is None:
            raise ValueError("the part is closed")
        return self._part

    def _state_file(self) -> StateFile:
        if self._state is None:
            raise ValueError("the part is closed")
        return self._state

    def _spoil(self, error: OSError) -> SyncFailedError:
        """After a failed sync nothing written is known to be durable: say so on disk too."""
        self._failure = error
        try:
            self._state_file().replace((), restarted=self.restarted, bad=True)
        except OSError:
            # Without a state file nothing is believed either; if even that fails, the sample on
            # the next start and the last check before the end still stand.
            with contextlib.suppress(OSError):
                self._folder.unlink(state_name(self.name))
                self._folder.sync_names()
        return SyncFailedError(self.name, error)

    def _plain(
        self, action: str, error: OSError, wanted: int = 0
    ) -> DiskFullError | DiskFailedError:
        if error.errno not in FULL:
            return DiskFailedError(self.name, action, error)
        missing = 0
        if self._part is not None:
            with contextlib.suppress(OSError):  # then what was wanted is all that is known
                need = self.layout.size - self._folder.facts(self._part).allocated
                missing = max(need, wanted) - self._folder.free()
        return DiskFullError(self.name, missing if missing > 0 else max(wanted, 1))
