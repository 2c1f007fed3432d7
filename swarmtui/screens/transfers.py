"""What the keys do with files: pause and resume, download, give up, copy the pin."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from node.requests import CANCEL, GET, PAUSE, RESUME
from node.state import Torrent
from swarmtui import transfers
from swarmtui.actions import BINARY
from swarmtui.amounts import size
from swarmtui.panes.view import View
from swarmtui.screens.dialog import ConfirmDialog
from swarmtui.widgets.text import Line, printable

if TYPE_CHECKING:
    from swarmtui.app import SwarmApp

LOAD_TOO = "load"
FILE_ONLY = "file"
KEEP = "keep"
DISCARD = "discard"
THIS_NODE = "this node"


class Transfers:
    """Mixed into the main screen."""

    if TYPE_CHECKING:

        @property
        def tui(self) -> SwarmApp: ...
        @property
        def selected(self) -> tuple[str, str]: ...
        def view(self) -> View: ...
        def redraw(self) -> None: ...
        def tell(self, notice: str) -> None: ...

    def _file(self) -> Torrent | None:
        """The selected file, or the file of the selected shard."""
        state = self.view().state
        kind, key = self.selected
        if kind == "torrent":
            return state.torrents.get(key)
        if kind == "shard" and key:
            return transfers.of_shard(state, int(key))
        return None

    def _ask(self, name: str, what: str, shown: str, words: str, **more: Any) -> None:
        """Send request `name` about `what`; `words` follow in the same command line."""
        self.tui.commander.ask(
            self.tui.door,
            name,
            {"what": what, **more},
            command=f"{name.upper()} {printable(shown, 40)}",
            target=THIS_NODE,
            cli=_line(name, shown, words),
        )
        self.tui.notice = ""
        self.redraw()

    def _named(self, item: Torrent) -> tuple[str, str]:
        """What the door calls the file, and what a command line does."""
        shown = transfers.what_of(self.view().state, item)
        pending = item.info_hash.startswith(transfers.PENDING)
        return (item.filename if pending else item.info_hash), shown

    # ------------------------------------------------------------ the keys

    def action_pause(self) -> None:
        """Pause a transfer, or let a paused one go on; the same key takes it back."""
        item = self._file()
        if item is None or not item.moving:
            self.tell("Nothing to pause: no file on its way is selected. Press 4 to choose one.")
            return
        what, shown = self._named(item)
        self._ask(RESUME if item.phase == "paused" else PAUSE, what, shown, "")

    def action_download(self) -> None:
        kind, key = self.selected
        item = self._file()
        if item is None and kind == "shard" and key:
            self._confirm_get(key, key, None, int(key))
            return
        if item is None:
            self.tell("No file is selected. Press 4 to choose one.")
            return
        name = printable(item.filename, 80)
        if item.phase == "paused":
            self.tell(f"{name} is paused. Press P to let it go on.")
        elif item.moving:
            self.tell(f"{name} is on its way already.")
        elif item.local or item.phase in ("hashing", "seeding", "done"):
            self.tell(f"{name} is on this node's disk already.")
        else:
            what, shown = self._named(item)
            self._confirm_get(what, shown, item, transfers.shard_of(item))

    def _confirm_get(
        self, what: str, shown: str, item: Torrent | None, shard_id: int | None
    ) -> None:
        name = f"shard {shown}" if item is None else printable(item.filename, 80)
        length = f", {size(item.size)}" if item is not None and item.size > 0 else ""
        offers = [transfers.offer_parts(offer) for offer in item.offers] if item else []
        roots = {root: words for root, words in offers if root}
        targets: list[tuple[str, str]] = [
            (f"{LOAD_TOO if shard_id is not None else FILE_ONLY} {root}", f"content {root[:16]}…")
            for root in roots
        ]
        if not targets:
            targets = [(FILE_ONLY, "download and verify it")]
            if shard_id is not None:
                targets = [
                    (LOAD_TOO, f"download and verify it, then load shard {shard_id} here"),
                    (FILE_ONLY, "download and verify it, do not load it"),
                ]

        def words(choice: str) -> tuple[str, str, str]:
            """The root if one was chosen, what a command line calls the file, and its options."""
            mode, _, root = choice.partition(" ")
            options = " --no-load" if mode == FILE_ONLY and shard_id is not None else ""
            return root, f"{shown}@{root}" if root else shown, options

        def describe(choice: str) -> list[Line]:
            root, at, options = words(choice)
            lines: list[Line] = [((f"This node fetches {name}{length}.", "base"),)]
            if root:
                lines.append((("Root   ", "dim"), (root, "strong")))
                lines.append((("       ", "dim"), (roots[root], "base")))
            return [*lines, (("Same   ", "dim"), (_line(GET, at, options), "base"))]

        def answered(choice: str | None) -> None:
            if choice is None:
                self.tell(f"{name} was not asked for.")
                return
            root, at, options = words(choice)
            more: dict[str, Any] = {"root": root} if root else {}
            more["load"] = choice.startswith(LOAD_TOO)
            self._ask(GET, what, at, options, **more)

        question: list[Line] = [(("Download this file?", "strong"),)]
        if roots:
            question = [((f"Two contents are called {name}. Which one do you trust?", "strong"),)]
        title = f"Download {name}"
        self.tui.push_screen(ConfirmDialog(title, question, targets, describe), answered)

    def action_cancel_transfer(self) -> None:
        item = self._file()
        if item is None or not item.moving:
            self.tell("Nothing to give up: no file on its way is selected. Press 4 to choose one.")
            return
        what, shown = self._named(item)
        name = printable(item.filename, 80)
        have = f"the {size(item.done)} that are here" if item.done else "nothing so far"
        targets = [
            (KEEP, f"keep {have} for a later start"),
            (DISCARD, f"throw away {have}" if item.done else "leave nothing behind"),
        ]

        def describe(choice: str) -> list[Line]:
            words = " --keep" if choice == KEEP else ""
            return [
                ((f"The download of {name} ends.", "base"),),
                (("Same   ", "dim"), (_line(CANCEL, shown, words), "base")),
            ]

        def answered(choice: str | None) -> None:
            if choice is None:
                self.tell(f"{name} goes on.")
            else:
                words = " --keep" if choice == KEEP else ""
                self._ask(CANCEL, what, shown, words, keep=choice == KEEP)

        question: list[Line] = [(("What of what was fetched?", "strong"),)]
        self.tui.push_screen(
            ConfirmDialog(f"Give up {name}", question, targets, describe), answered
        )

    def action_copy_pin(self) -> None:
        item = self._file()
        pin = transfers.pin_of(item) if item is not None else ""
        if not pin:
            self.tell("Nothing to copy: this node has not accepted a root for the selected file.")
            return
        self.tui.copy_to_clipboard(pin)
        self.tell(f"Copied: {pin}")


def _line(name: str, shown: str, words: str) -> str:
    """The command line that does the same."""
    return f"{shlex.join([BINARY, 'torrent', name, shown])}{words}"
