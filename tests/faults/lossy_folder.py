"""A folder in memory that forgets what was not synced, for the power-loss model.

Every file and the list of names exist twice: live (what a running system reads) and durable (what
the disk holds). A write joins the durable copy when its file is synced; a power loss before that
keeps an arbitrary subset of the unsynced 4 KiB sectors and of the unsynced changes of names.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

from node.torrent.folder import Facts

SECTOR = 4096
Change = list[tuple[str, "Inode | None"]]


class PowerLoss(BaseException):
    """The machine is off: nothing of it answers any more."""


class Inode:
    def __init__(self, number: int) -> None:
        self.number = number
        self.live = bytearray()
        self.durable = bytearray()
        self.dirty: list[tuple[int, bytes]] = []
        self.durable_size = 0
        self.locked_by: int | None = None


def put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset + len(data):
        target.extend(bytes(offset + len(data) - len(target)))
    target[offset : offset + len(data)] = data


class LossyFolder:
    """Implements `Folder`. `fault(call)` runs before every call and may raise or return a cap."""

    def __init__(self, fault: Callable[[str], int | None] = lambda call: None) -> None:
        self.fault = fault
        self.room = 1 << 40
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.changes: list[Change] = []
        self.handles: dict[int, Inode] = {}
        self._next = 100
        self._dead = False

    # ------------------------------------------------------------ the model

    def lose_power(self, rng: random.Random) -> LossyFolder:
        """The folder as it is found after the power loss."""
        self._dead = True
        found = LossyFolder()
        names = dict(self.durable_names)
        for change in self.changes:
            if rng.random() < 0.5:
                apply(names, change)
        after: dict[int, Inode] = {}
        for inode in {id(item): item for item in names.values()}.values():
            survivor = Inode(inode.number)
            content = bytearray(inode.durable)
            for offset, data in inode.dirty:
                for start in range(0, len(data), SECTOR):
                    if rng.random() < 0.5:
                        put(content, offset + start, data[start : start + SECTOR])
            if rng.random() < 0.3 and inode.dirty:
                content = content[: max(inode.durable_size, rng.randrange(len(content) + 1))]
            survivor.live = bytearray(content)
            survivor.durable = bytearray(content)
            survivor.durable_size = len(content)
            after[inode.number] = survivor
        found.names = {name: after[inode.number] for name, inode in names.items()}
        found.durable_names = dict(found.names)
        found._next = self._next + 1000
        return found

    def _call(self, name: str) -> int | None:
        if self._dead:
            raise PowerLoss
        return self.fault(name)

    def _change(self, change: Change) -> None:
        apply(self.names, change)
        self.changes.append(change)

    def _new_handle(self, inode: Inode) -> int:
        self._next += 1
        self.handles[self._next] = inode
        return self._next

    # ------------------------------------------------------------ Folder

    def create(self, name: str) -> int:
        self._call("create")
        if name in self.names:
            raise FileExistsError(errno.EEXIST, "File exists")
        self._next += 1
        inode = Inode(self._next)
        self._change([(name, inode)])
        return self._new_handle(inode)

    def open(self, name: str) -> int:
        self._call("open")
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file")
        return self._new_handle(self.names[name])

    def close(self, handle: int) -> None:
        inode = self.handles.pop(handle)
        if inode.locked_by == handle:
            inode.locked_by = None

    def lock(self, handle: int) -> bool:
        inode = self.handles[handle]
        if inode.locked_by not in (None, handle):
            return False
        inode.locked_by = handle
        return True

    def facts(self, handle: int) -> Facts:
        return self._facts(self.handles[handle])

    def facts_of(self, name: str) -> Facts | None:
        inode = self.names.get(name)
        return None if inode is None else self._facts(inode)

    def _facts(self, inode: Inode) -> Facts:
        links = sum(item is inode for item in self.names.values())
        return Facts(1, inode.number, len(inode.live), len(inode.live), links, True)

    def read(self, handle: int, view: memoryview, offset: int) -> int:
        self._call("read")
        part = self.handles[handle].live[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        cap = self._call("write")
        raw = bytes(data)[:cap]
        inode = self.handles[handle]
        put(inode.live, offset, raw)
        inode.dirty.append((offset, raw))
        return len(raw)

    def truncate(self, handle: int, size: int) -> None:
        self._call("truncate")
        inode = self.handles[handle]
        for content in (inode.live, inode.durable):
            del content[size:]
        inode.durable_size = min(inode.durable_size, size)

    def allocate(self, handle: int, size: int) -> None:
        self._call("allocate")
        inode = self.handles[handle]
        if len(inode.live) < size:
            start = len(inode.live)
            inode.live.extend(bytes(size - start))
            inode.dirty.append((start, bytes(size - start)))

    def free(self) -> int:
        return self.room - sum(len(inode.live) for inode in self.names.values())

    def sync_data(self, handle: int) -> None:
        self._sync("sync_data", handle)

    def sync(self, handle: int) -> None:
        self._sync("sync", handle)

    def _sync(self, call: str, handle: int) -> None:
        inode = self.handles[handle]
        try:
            self._call(call)
        except OSError:
            # As Linux does: the pages stay readable but are no longer going to be written.
            inode.dirty.clear()
            raise
        for offset, data in inode.dirty:
            put(inode.durable, offset, data)
        inode.dirty.clear()
        inode.durable_size = len(inode.durable)

    def forget(self, handle: int) -> None:
        inode = self.handles[handle]
        inode.live = bytearray(inode.durable)
        for offset, data in inode.dirty:
            put(inode.live, offset, data)

    def sync_names(self) -> None:
        self._call("sync_names")
        for change in self.changes:
            apply(self.durable_names, change)
        self.changes.clear()

    def rename(self, old: str, new: str) -> None:
        self._call("rename")
        self._change([(new, self.names[old]), (old, None)])

    def link(self, old: str, new: str) -> None:
        self._call("link")
        if new in self.names:
            raise FileExistsError(errno.EEXIST, "File exists")
        self._change([(new, self.names[old])])

    def unlink(self, name: str) -> None:
        self._call("unlink")
        if name in self.names:
            self._change([(name, None)])


def apply(names: dict[str, Inode], change: Change) -> None:
    for name, inode in change:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode
