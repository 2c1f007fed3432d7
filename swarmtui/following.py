"""Following a download from another process: one line that is rewritten, or a few that are not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from node.clean import clean
from node.errors import PlainError
from node.requests import GET
from node.state import State, Torrent
from swarmtui import transfers
from swarmtui.amounts import bar, left, of, percent, plural, rate

if TYPE_CHECKING:
    from node.door import Door

BAR_CELLS = 12
PERIOD_S = 0.2
SETTLE_S = 0.5
STEPS = 10
LOAD_PATIENCE_S = 30.0


class ProgressLine:
    """A line on a stream: rewritten where it is a terminal, printed now and then where not."""

    def __init__(self, out: TextIO | None = None) -> None:
        """out: standard error by default."""
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._shown = ""
        self._told: tuple[object, ...] = ()

    def show(self, text: str, *milestone: object) -> None:
        """Show `text`; without a terminal only where a milestone is given, and is a new one."""
        if self._live:
            if text != self._shown:
                self._out.write(f"\r\x1b[K{_cut(text)}")
                self._out.flush()
                self._shown = text
        elif milestone and milestone != self._told:
            self._told = milestone
            self._out.write(f"{text}\n")
            self._out.flush()

    def clear(self) -> None:
        """Leave the line empty for what is printed next."""
        if self._live and self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._shown = ""


def _cut(text: str) -> str:
    """`text` in one line of the terminal: a wrapped line could not be rewritten."""
    import shutil

    width = shutil.get_terminal_size().columns - 1
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def progress_text(item: Torrent) -> str:
    """`shard-3.gguf  downloading  47 %  ████─────  482 MiB of 1.0 GiB  94.2 MiB/s  …`."""
    word, _ = transfers.state_word(item)
    parts = [clean(item.filename, 60), word]
    done = transfers.share(item)
    if done is not None and item.size:
        filled, rest = bar(done, BAR_CELLS)
        here = item.progress * item.size if item.phase == "hashing" else item.done
        parts += [f"{percent(done):>5}", filled + rest, of(here, item.size)]
    if transfers.down_rate(item) >= 1:
        parts.append(rate(item.rate_down))
    if count := transfers.connected(item):
        parts.append(plural(count, "source"))
    if (eta_s := transfers.time_left(item)) is not None:
        parts.append(f"{left(eta_s)} left")
    if reason := transfers.trouble(item):
        parts.append(reason)
    return "  ".join(parts)


class Follower:
    """Has a node fetch one file, and watches it through the door until that has ended.

    what: what the operator called it; load: whether its shard is to be loaded afterwards
    item: the file as it was seen last
    """

    def __init__(self, door: Door, what: str, *, load: bool) -> None:
        self.item: Torrent | None = None
        self._door = door
        self._load = load
        self._filename = f"shard-{int(what)}.gguf" if what.isascii() and what.isdigit() else what
        self._info_hash = ""
        # So that an old failure does not count.
        self._before = door.snapshot().state
        self._line = ProgressLine()
        self._file_here_at: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the node took it up: what went wrong then is no mistake of the operator."""
        return self.item is not None

    def ask(self, params: dict[str, Any]) -> dict[str, Any]:
        """Send `get` and wait for the answer, which comes once the file was found.

        Raises PlainError where the node refuses it, nobody has it, or two contents are on offer.
        """
        future = self._door.request(GET, params)
        with self._waking() as changed:
            future.add_done_callback(lambda _: changed.set())
            while not future.done():
                changed.clear()
                self._see()
                if not future.done():
                    self._pause(changed)
            self._line.clear()
            try:
                answer = future.result(0)
            except PlainError as error:
                self._settle(changed, error)
                raise
        self._filename = clean(answer.get("filename") or self._filename, 255)
        self._info_hash = str(answer.get("info_hash") or "")
        return answer

    def run(self) -> Torrent:
        """Return the file once it is here, and loaded where that was asked for.

        Raises PlainError with its sentence and next step when it failed or was given up, and when
        the node is gone.
        """
        with self._waking() as changed:
            while True:
                changed.clear()
                done = self._look(self._door.snapshot().state)
                if done is not None:
                    return done
                lost = str(getattr(self._door, "lost", ""))
                if lost:
                    raise PlainError(
                        f"The node is gone: {clean(lost)}.",
                        "Start it again: the download goes on where it stopped.",
                    )
                self._pause(changed)

    @contextmanager
    def _waking(self) -> Iterator[threading.Event]:
        changed = threading.Event()
        unsubscribe = self._door.subscribe(changed.set)
        try:
            yield changed
        finally:
            unsubscribe()
            self._line.clear()

    @staticmethod
    def _pause(changed: threading.Event) -> None:
        """Wait for the next change; many at once are one line."""
        began = time.monotonic()
        changed.wait(2.0)
        threading.Event().wait(max(began + PERIOD_S - time.monotonic(), 0))

    def _settle(self, changed: threading.Event, error: PlainError) -> None:
        """Find the failed file an error is about; its event may come after the answer."""
        end = time.monotonic() + SETTLE_S
        while True:
            changed.clear()
            for item in self._door.snapshot().state.torrents.values():
                if item.phase == "failed" and error.sentence == clean(item.reason, 1000):
                    self.item = item
                    return
            if time.monotonic() >= end or not changed.wait(max(end - time.monotonic(), 0)):
                return

    def _see(self) -> None:
        """Show how the file stands while it is looked for."""
        item = self._find(self._door.snapshot().state)
        if item is not None and item.moving:
            self._line.show(progress_text(item), item.phase, item.reason)
        else:
            self._line.show(f"{clean(self._filename, 60)}  asked for")

    def _find(self, state: State) -> Torrent | None:
        pending = transfers.PENDING + self._filename
        if self._info_hash:
            found = state.torrents.get(self._info_hash)
            if found is not None:
                return found
        if pending in state.torrents:
            return state.torrents[pending]
        same = [i for i in state.torrents.values() if i.filename == self._filename]
        news = [i for i in same if i is not self._known(i) and (i.phase or i.local)]
        return transfers.ordered(news)[0] if news else None

    def _known(self, item: Torrent) -> Torrent | None:
        """The same file before it was asked for, if nothing has changed in it since."""
        before = self._before.torrents.get(item.info_hash)
        return item if before == item else None

    def _look(self, state: State) -> Torrent | None:
        item = self._find(state)
        if item is None:
            self._line.show(f"{clean(self._filename, 60)}  asked for")
            return None
        self.item = item
        if item.phase in ("failed", "cancelled") and self._known(item) is None:
            self._line.clear()
            sentence = clean(item.reason, 1000) or f"{clean(item.filename, 120)} did not come."
            raise PlainError(sentence, clean(item.next_step, 1000))
        if item.local and not item.moving and item.phase not in ("hashing", "failed", "cancelled"):
            return self._loaded(state, item)
        done = transfers.share(item) or 0.0
        self._line.show(progress_text(item), item.phase, item.reason, int(done * STEPS))
        return None

    def _loaded(self, state: State, item: Torrent) -> Torrent | None:
        """The file, once its shard is loaded where that was asked for too."""
        shard_id = transfers.shard_of(item)
        shard = state.shards.get(shard_id) if shard_id is not None else None
        if not self._load or shard is None or shard.local.phase == "loaded":
            return item
        local = shard.local
        name = clean(item.filename, 120)
        now = time.monotonic()
        if self._file_here_at is None:
            self._file_here_at = now
        if local.phase == "failed" and local.sentence and not self._failed_before(shard.shard_id):
            raise PlainError(
                f"{name} is here and verified, but was not loaded: {clean(local.sentence, 800)}",
                clean(local.next_step, 800),
            )
        if local.phase != "loading" and now - self._file_here_at > LOAD_PATIENCE_S:
            raise PlainError(
                f"{name} is here and verified, but the node does not load shard {shard.shard_id}.",
                f"Have it loaded with `swarmtui send LOAD_SHARD --to me --shard {shard.shard_id}`.",
            )
        word = f"loading {percent(local.progress)}" if local.phase == "loading" else "loading"
        tenth = int(local.progress * STEPS) if local.phase == "loading" else 0
        self._line.show(f"{name}  complete and verified  {word}", "loading", tenth)
        return None

    def _failed_before(self, shard_id: int) -> bool:
        before = self._before.shards.get(shard_id)
        now = self._door.snapshot().state.shards.get(shard_id)
        return before is not None and now is not None and before.local == now.local
