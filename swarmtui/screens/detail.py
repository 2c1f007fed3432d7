"""Full-screen text: why an item is as it is, an answer, a log line in full, the help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.message import Message
from textual.screen import Screen

from swarmtui.actions import ACTIONS, GROUPS, detail_bindings
from swarmtui.panes.bars import KeyBar
from swarmtui.panes.view import View
from swarmtui.widgets.text import Line
from swarmtui.widgets.text_pane import TextPane

Lines = Callable[[View], Sequence[Line]]


class DetailScreen(Screen[None]):
    """Shows lines that are built anew from every view; esc goes back."""

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("escape,q,enter,ctrl+c,ctrl+q", "leave", show=False, priority=True),
        *detail_bindings(),
    ]

    class Forwarded(Message):
        """A key of the main screen was pressed here; do its action there."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(
        self,
        title: str,
        lines: Lines,
        now: Callable[[], View],
        keys: Sequence[tuple[str, str]] = (),
    ) -> None:
        """now gives the present view, for the first drawing and after a resize.

        keys: the keys of the main screen that the footer offers here, with their titles.
        """
        super().__init__()
        self._title = title
        self._lines = lines
        self._now = now
        self._keys = list(keys)
        self._pane = TextPane(id="text")

    def compose(self) -> ComposeResult:
        yield self._pane
        yield KeyBar(id="keys")

    def on_resize(self) -> None:
        keys = [("esc", "Back"), ("↑ ↓ pgup pgdn", "Scroll"), *self._keys]
        self.query_one("#keys", KeyBar).show_keys(keys)
        self.call_after_refresh(lambda: self.update_view(self._now()))

    def update_view(self, view: View) -> None:
        """Show the item as it is now."""
        if not self._pane.is_mounted:
            # The tick may come between the pushing of this screen and its composition.
            return
        self._pane.show(self._lines(view))
        self._titles()

    def on_text_pane_scrolled(self) -> None:
        self._titles()

    def _titles(self) -> None:
        below = self._pane.below
        more = f"{below} lines below" if below else "end"
        self._pane.set_titles(((self._title, "title"),), ((more, "dim"),))

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_forward(self, action: str) -> None:
        self.app.post_message(self.Forwarded(action))
        self.dismiss(None)


def help_lines() -> list[Line]:
    """The help: the action table, group by group, with the command lines."""
    lines: list[Line] = [
        (("Small letters look and ask. Capitals change something and ask first,", "base"),),
        (("except P: the same key takes it back.", "base"),),
        (("★ LOCAL", "local"), ("   loaded in this node's memory", "base")),
        (("✓ ONLINE", "online"), ("  a holder has it loaded and answered within 15 s", "base")),
        (("✗ OFFLINE", "offline"), (" neither; the WHY column says what is the matter", "base")),
    ]
    for group in GROUPS:
        lines += [(), ((group, "title"),)]
        for item in ACTIONS:
            if item.group != group:
                continue
            lines.append(((f"  {item.shown:<10}", "key"), (item.help, "base")))
            if item.cli:
                lines.append((("            $ ", "dim"), (item.cli, "dim")))
    return lines


class ProblemScreen(Screen[None]):
    """The node could not be started or reached: what is wrong, and the next step."""

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("q,escape,enter,ctrl+c,ctrl+q", "quit_now", show=False, priority=True),
    ]

    def __init__(self, sentence: str, next_step: str) -> None:
        super().__init__()
        self._lines: list[Line] = [
            (),
            (("✗ ", "offline"), (sentence, "strong")),
            (),
            (("→ ", "key"), (next_step, "base")) if next_step else (),
            (),
            (("Press q to close.", "dim"),),
        ]

    def compose(self) -> ComposeResult:
        yield TextPane(id="text")

    def on_resize(self) -> None:
        pane = self.query_one("#text", TextPane)
        pane.set_titles((("swarmtui cannot go on", "title"),), (("q close", "dim"),))
        self.call_after_refresh(pane.show, self._lines)

    def action_quit_now(self) -> None:
        self.app.exit("stop")
