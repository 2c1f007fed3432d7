"""Dialogs: a box of lines over the main screen. Nothing happens on enter unless it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen

from swarmtui.widgets.text import Line, printable
from swarmtui.widgets.text_pane import TextPane

WIDTH = 76


class Box(TextPane):
    """A box as high as its lines."""

    DEFAULT_CSS = "Box { height: auto; width: 100%; }"

    def fill(self, title: str, lines: Sequence[Line], foot: str = "") -> None:
        """Show the lines, and be as high as they are."""
        self.set_titles(((title, "title"),), ((foot, "dim"),) if foot else ())
        from swarmtui.widgets.text import wrap

        width = min(WIDTH, self.app.size.width - 2) - 4
        height = sum(len(wrap(line, width, 4)) for line in lines) + 2
        self.styles.height = min(height, max(self.app.size.height - 4, 6))
        self.show(lines)


class Dialog(ModalScreen[str | None]):
    """The base: one box in the middle, esc leaves with None."""

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("escape", "leave", show=False, priority=True),
        Binding("ctrl+c,ctrl+q", "leave", show=False, priority=True),
    ]
    AUTO_FOCUS = "Box"

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Box(id="box")

    @property
    def box(self) -> Box:
        return self.query_one("#box", Box)

    def on_mount(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Fill the box."""

    def action_leave(self) -> None:
        self.dismiss(None)


class KeyDialog(Dialog):
    """A question answered by one key; enter and esc take the safe way out."""

    def __init__(self, title: str, lines: Sequence[Line], keys: Sequence[tuple[str, str, str]]):
        """keys: key, what it says, and the result; the last one is the default."""
        super().__init__()
        self._title = title
        self._lines = list(lines)
        self._keys = list(keys)

    def redraw(self) -> None:
        lines = list(self._lines)
        default = self._keys[-1][0]
        for key, text, _ in self._keys:
            shown = "enter esc" if key == default else key
            if key == default:
                shown = f"{key} {shown}"
            lines.append(((f"  {shown:<14}", "key"), (text, "base")))
        self.box.fill(self._title, lines)

    def on_key(self, event: object) -> None:
        from textual.events import Key

        assert isinstance(event, Key)
        key = self._keys[-1][0] if event.key == "enter" else event.key
        for name, _, result in self._keys:
            if name == key:
                event.stop()
                event.prevent_default()
                self.dismiss(result)
                return


Describe = Callable[[str], Sequence[Line]]


class ConfirmDialog(Dialog):
    """Choose a target, read what will be sent, and say yes; No is the default.

    Leaves with the target's key, or None.
    """

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("up,k", "choose(-1)", show=False, priority=True),
        Binding("down,j", "choose(1)", show=False, priority=True),
        Binding("left,right,tab,h,l", "switch", show=False, priority=True),
        Binding("y", "yes", show=False, priority=True),
        Binding("n", "leave", show=False, priority=True),
        Binding("enter", "press", show=False, priority=True),
    ]
    SHOWN = 8

    def __init__(
        self,
        title: str,
        question: Sequence[Line],
        targets: Sequence[tuple[str, str]],
        describe: Describe,
        chosen: int = 0,
    ) -> None:
        super().__init__()
        self._title = title
        self._question = list(question)
        self._targets = list(targets)
        self._describe = describe
        self._at = chosen
        self._sure = False

    def redraw(self) -> None:
        lines: list[Line] = list(self._question)
        start = max(0, min(self._at - self.SHOWN // 2, len(self._targets) - self.SHOWN))
        for number in range(start, min(start + self.SHOWN, len(self._targets))):
            _, label = self._targets[number]
            here = number == self._at
            lines.append(
                ((" > " if here else "   ", "key"), (label, "strong" if here else "base"))
            )
        rest = len(self._targets) - min(start + self.SHOWN, len(self._targets))
        if rest > 0:
            lines.append(((f"   {rest} more below", "dim"),))
        lines.append(())
        lines += self._describe(self._targets[self._at][0])
        no, yes = ("  No  ", "[ Yes ]") if self._sure else ("[ No ]", "  Yes  ")
        lines += [
            (),
            (
                ("   ", "base"),
                (no, "base" if self._sure else "focus"),
                ("   ", "base"),
                (yes, "focus" if self._sure else "base"),
            ),
        ]
        enter = "yes" if self._sure else "no"
        choose = "↑↓ where · " if len(self._targets) > 1 else ""
        self.box.fill(
            self._title, lines, f"{choose}y yes · n esc no · ←→ choose · enter {enter}"
        )

    def action_choose(self, by: int) -> None:
        self._at = max(0, min(self._at + by, len(self._targets) - 1))
        self._sure = False
        self.redraw()

    def action_switch(self) -> None:
        self._sure = not self._sure
        self.redraw()

    def action_yes(self) -> None:
        self.dismiss(self._targets[self._at][0])

    def action_press(self) -> None:
        self.dismiss(self._targets[self._at][0] if self._sure else None)


class InputDialog(Dialog):
    """One line of text for one of several targets: every letter goes into the text.

    Leaves with `target key`, a newline, and the text; or None.
    """

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("up", "choose(-1)", show=False, priority=True),
        Binding("down", "choose(1)", show=False, priority=True),
    ]
    AUTO_FOCUS = "Input"
    LONGEST = 2000

    def __init__(
        self,
        title: str,
        targets: Sequence[tuple[str, str]],
        chosen: int = 0,
        text: str = "",
        changed: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._targets = list(targets)
        self._at = chosen
        self._text = text
        self._changed = changed

    def compose(self) -> ComposeResult:
        from textual.widgets import Input

        with Vertical():
            yield Box(id="box")
            yield Input(value=self._text, max_length=self.LONGEST, select_on_focus=False)

    def redraw(self) -> None:
        lines: list[Line] = []
        if self._targets:
            label = self._targets[self._at][1]
            lines.append((("To ", "dim"), (label, "strong")))
            if len(self._targets) > 1:
                lines.append(
                    ((f"↑↓ chooses among {len(self._targets)}; ", "dim"),
                     ("letters go into the text.", "dim"))
                )
        else:
            lines.append((("Letters go into the text.", "dim"),))
        self.box.fill(self._title, lines, "enter takes it · esc leaves")

    def action_choose(self, by: int) -> None:
        if self._targets:
            self._at = max(0, min(self._at + by, len(self._targets) - 1))
            self.redraw()

    def on_input_changed(self, event: object) -> None:
        if self._changed is not None:
            self._changed(printable(str(getattr(event, "value", "")), 200))

    def on_input_submitted(self, event: object) -> None:
        text = str(getattr(event, "value", ""))
        target = self._targets[self._at][0] if self._targets else ""
        self.dismiss(f"{target}\n{text}")
