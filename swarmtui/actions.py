"""The one table of what an operator can do: keys, bindings, footer, help and command lines.

Small letters read or send harmless probes; capitals change something. No chord with ctrl: those
belong to tmux, screen, flow control and job control.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.binding import Binding

BINARY = "swarmtui"


@dataclass(frozen=True)
class Action:
    """One row of the table.

    keys:   Textual key names, separated by commas; empty where a widget binds them itself.
    shown:  the key as a person reads it.
    name:   the Textual action, with its argument if it has one.
    title:  one or two words, for the footer.
    help:   one sentence.
    group:  the heading in the help.
    cli:    the same from a command line; empty where there is none.
    footer: order in the footer, lowest first; 0 keeps it out.
    detail: whether the key also works on a detail screen.
    kinds:  the kinds of items (shard, peer, query, torrent) it is about, separated by commas; the
            footer shows it only with those. Empty: with any.
    """

    keys: str
    shown: str
    name: str
    title: str
    help: str
    group: str
    cli: str = ""
    footer: int = 0
    detail: bool = False
    kinds: str = ""

    def suits(self, kind: str) -> bool:
        """Whether the footer of a pane of `kind` shows it."""
        return not self.kinds or kind in self.kinds.split(",")


ACTIONS: tuple[Action, ...] = (
    Action("question_mark", "?", "help", "Help", "Show this help.", "Look", footer=1),
    Action("1", "1", "pane(1)", "Shards", "Go to the shards.", "Look"),
    Action("2", "2", "pane(2)", "Peers", "Go to the peers.", "Look"),
    Action("3", "3", "pane(3)", "DHT", "Go to the DHT queries.", "Look"),
    Action("4", "4", "pane(4)", "Torrents", "Go to the torrents.", "Look"),
    Action("5", "5", "pane(5)", "Log", "Go to the log.", "Look"),
    Action("tab", "tab", "next_pane(1)", "Next", "Go to the next pane.", "Look"),
    Action("shift+tab", "shift+tab", "next_pane(-1)", "Previous", "And back.", "Look"),
    Action(
        "", "enter", "open", "Why", "Open the selected item: all that is known, and the next step.",
        "Look", footer=2,
    ),
    Action("z", "z", "zoom", "Zoom", "Give the pane the whole screen, and back.", "Look", footer=8),
    Action("slash", "/", "filter", "Filter", "Show only rows that hold a text.", "Look", footer=9),
    Action("t", "t", "theme", "Theme", "Switch to the next theme.", "Look", footer=10),
    Action(
        "exclamation_mark", "!", "problems", "Problems", "What went wrong, and the next steps.",
        "Look",
    ),
    Action("escape", "esc", "back", "Back", "Clear the filter, leave the zoom.", "Look"),
    Action("", "↑ ↓ j k", "move", "Move", "Move the cursor; it stays on its item.", "Move"),
    Action("", "g G", "ends", "Ends", "First and last; in the log G follows again.", "Move"),
    Action("", "pgup pgdn", "page", "Page", "A page up or down.", "Move"),
    Action("", "s S", "sort", "Sort", "Sort by the next column; turn it round.", "Move"),
    Action("", "+ -", "level", "Level", "In the log: fewer lines, more lines.", "Move"),
    Action(
        "i", "i", "status_of_selected", "Status",
        "Send GET_STATUS to the selected peer, or to the best holder of the selected shard.",
        "Ask", f"{BINARY} send GET_STATUS --to PEER", footer=4, detail=True,
    ),
    Action(
        "I", "I", "status_of_all", "Status of all", "Send GET_STATUS to every peer.",
        "Ask", f"{BINARY} send GET_STATUS --to all", detail=True,
    ),
    Action(
        "m", "m", "message", "Message", "Send a test message.",
        "Ask", f"{BINARY} send MESSAGE TEXT --to PEER", footer=5, detail=True,
    ),
    Action(
        "o", "o", "answer", "Answer", "Open the answer to the last command.", "Ask", footer=11,
    ),
    Action(
        "c", "c", "copy", "Copy",
        "Copy the last command as a command line; in a swarm of one, how the next node joins.",
        "Ask",
    ),
    Action(
        "y", "y", "copy_pin", "Copy pin",
        "Copy name@root of the selected file, for --pin and torrent get.",
        "Ask", f"{BINARY} torrent list --json", footer=13, detail=True, kinds="torrent",
    ),
    Action(
        "e", "e", "bundle", "Report", "Write a bug report: log, state, settings, versions.",
        "Ask", f"{BINARY} bundle", footer=6, detail=True,
    ),
    Action(
        "L", "L", "load", "Load", "LOAD_SHARD: have this node or a peer load the selected shard.",
        "Change", f"{BINARY} send LOAD_SHARD --to PEER --shard N", footer=3, detail=True,
        kinds="shard,peer,query",
    ),
    Action(
        "U", "U", "unload", "Unload", "UNLOAD_SHARD: have it released from memory.",
        "Change", f"{BINARY} send UNLOAD_SHARD --to PEER --shard N", footer=12, detail=True,
        kinds="shard,peer,query",
    ),
    Action(
        "P", "P", "pause", "Pause", "Pause the selected transfer; P again lets it go on.",
        "Change", f"{BINARY} torrent pause|resume WHAT", footer=3, detail=True, kinds="torrent",
    ),
    Action(
        "D", "D", "download", "Download",
        "Download the selected file, or the selected shard's, from all who have it, and verify it.",
        "Change", f"{BINARY} torrent get WHAT[@ROOT]", footer=3, detail=True, kinds="torrent",
    ),
    Action(
        "X", "X", "cancel_transfer", "Give up",
        "Give up the selected transfer, and keep or discard what was fetched.",
        "Change", f"{BINARY} torrent cancel [--keep] WHAT", footer=3, detail=True, kinds="torrent",
    ),
    Action(
        "q,ctrl+c,ctrl+q", "q", "quit_dialog", "Quit",
        "Ask: stop the node, leave it running without a console, or stay.",
        "Leave", footer=7,
    ),
)
GROUPS = ("Look", "Move", "Ask", "Change", "Leave")


def bindings() -> list[Binding]:
    """Textual's bindings for the main screen."""
    from textual.binding import Binding

    return [
        Binding(item.keys, item.name, item.title, show=False, priority=item.name == "quit_dialog")
        for item in ACTIONS
        if item.keys
    ]


def detail_bindings() -> list[Binding]:
    """The bindings of a detail screen: the same keys, handed to the main screen."""
    from textual.binding import Binding

    return [
        Binding(item.keys, f"forward('{item.name}')", item.title, show=False)
        for item in ACTIONS
        if item.detail
    ]


def footer(kind: str = "") -> list[tuple[str, str]]:
    """Key and title of what the footer of a pane of `kind` shows, the most useful first."""
    chosen = [item for item in ACTIONS if item.footer and item.suits(kind)]
    chosen.sort(key=lambda item: (item.footer, not item.kinds))
    return [(item.shown, item.title) for item in chosen]


def detail_footer(kind: str = "") -> list[tuple[str, str]]:
    """The same for a detail screen about an item of `kind`; what is about that kind is first."""
    chosen = [item for item in ACTIONS if item.detail and item.suits(kind)]
    chosen.sort(key=lambda item: not item.kinds)
    return [(item.shown, item.title) for item in chosen]


def cli_line(command: str, to: str, shard_id: int | None = None, text: str | None = None) -> str:
    """The command line that does the same."""
    parts = [BINARY, "send", command, *([] if text is None else [text]), "--to", to]
    if shard_id is not None:
        parts += ["--shard", str(shard_id)]
    return shlex.join(parts)
