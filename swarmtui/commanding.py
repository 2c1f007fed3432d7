"""Commands sent from the console: each is a request to the door, and a line in a journal.

Answers come from the node's thread. They are put into a queue, and the console is woken by a
message of which any number may be folded into one.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from node.clean import clean_tree
from node.door import Door
from node.errors import PlainError
from swarmtui.widgets.text import Line, peer_name, printable

REMEMBERED = 200
MAX_LINES = 400


@dataclass
class Entry:
    """One command and how it stands: waiting, success, error or timeout."""

    number: int
    command: str
    target: str
    cli: str
    at: float
    status: str = "waiting"
    duration_ms: float | None = None
    summary: str = ""
    next_step: str = ""
    answer: dict[str, Any] = field(default_factory=dict)
    _begun: float = 0.0

    @property
    def waiting(self) -> bool:
        return self.status == "waiting"


class Commander:
    """Sends requests and keeps the last of them, newest last.

    wake is called from any thread when an answer lies ready; then call `collect` in the UI.
    """

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float] = time.time) -> None:
        self.entries: deque[Entry] = deque(maxlen=REMEMBERED)
        self._wake = wake
        self._clock = clock
        self._done: deque[tuple[Entry, Future[dict[str, Any]]]] = deque()
        self._count = 0

    @property
    def last(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    def ask(
        self,
        door: Door | None,
        name: str,
        params: dict[str, Any],
        *,
        command: str,
        target: str,
        cli: str,
    ) -> Entry:
        """Send request `name`; the entry returned settles later."""
        entry = self.begin(command, target, cli)
        if door is None:
            self.fail(entry, PlainError("The node is still starting.", "Try again in a moment."))
            return entry
        try:
            future = door.request(name, params)
        except PlainError as error:
            self.fail(entry, error)
            return entry
        future.add_done_callback(lambda done: self._arrived(entry, done))
        return entry

    def begin(self, command: str, target: str, cli: str) -> Entry:
        """A new entry, waiting."""
        self._count += 1
        entry = Entry(self._count, command, target, cli, self._clock())
        entry._begun = time.monotonic()
        self.entries.append(entry)
        return entry

    def fail(self, entry: Entry, error: PlainError) -> None:
        """Settle an entry with an error."""
        entry.status = "error"
        entry.summary = error.sentence
        entry.next_step = error.next_step

    def finish(self, entry: Entry, summary: str, status: str = "success") -> None:
        """Settle an entry that was not a request."""
        entry.status = status
        entry.summary = summary
        entry.duration_ms = (time.monotonic() - entry._begun) * 1000

    def _arrived(self, entry: Entry, future: Future[dict[str, Any]]) -> None:
        entry.duration_ms = (time.monotonic() - entry._begun) * 1000
        self._done.append((entry, future))
        self._wake()

    def collect(self) -> bool:
        """Settle the entries whose answers came; True when there were any."""
        found = False
        while self._done:
            entry, future = self._done.popleft()
            found = True
            try:
                answer = future.result(timeout=0)
            except PlainError as error:
                self.fail(entry, error)
            except CancelledError:
                self.fail(entry, PlainError("The command was cancelled.", "Send it again."))
            except Exception as error:
                reason = printable(str(error), 200) or type(error).__name__
                step = "Press e to write a bug report."
                self.fail(entry, PlainError(f"The command failed: {reason}.", step))
            else:
                entry.answer = answer if isinstance(answer, dict) else {"answer": answer}
                entry.status, entry.summary = summarise(entry.answer)
        return found


def summarise(answer: dict[str, Any]) -> tuple[str, str]:
    """Status and one line for an answer."""
    answers = answer.get("answers")
    if isinstance(answers, list):
        rows = [item for item in answers if isinstance(item, dict)]
        if not rows:
            return "error", "No peer was there to answer."
        if len(rows) > 1:
            counts = Counter(str(item.get("status", "error")) for item in rows)
            worst = next((s for s in ("timeout", "error") if counts[s]), "success")
            return worst, ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
        answer = rows[0]
    status = str(answer.get("status", "success"))
    if status not in ("success", "error", "timeout"):
        status = "success"
    text = answer.get("summary") or answer.get("error")
    if not text and answer.get("filename"):
        text = f"{answer['filename']}: {answer.get('status', 'done')}"
    if not text:
        result = answer.get("result", answer)
        text = _short(result) if isinstance(result, dict) else str(result)
    return status, printable(str(text), 300)


def _short(result: dict[str, Any]) -> str:
    simple = [
        f"{key}={value}" for key, value in result.items() if isinstance(value, str | int | float)
    ]
    return ", ".join(simple[:8]) or "done"


def answer_lines(entry: Entry) -> list[Line]:
    """Everything about a command, for a detail screen."""
    style = {"success": "good", "waiting": "warn"}.get(entry.status, "bad")
    took = f"  {entry.duration_ms:.0f} ms" if entry.duration_ms is not None else ""
    lines: list[Line] = [
        (
            (f"#{entry.number} {entry.command} → {entry.target}  ", "title"),
            (entry.status, style),
            (took, "dim"),
        ),
        ((entry.summary, "base"),),
    ]
    if entry.next_step:
        lines.append((("→ ", "key"), (entry.next_step, "base")))
    lines += [(), (("$ ", "dim"), (entry.cli, "strong")), ()]
    answers = entry.answer.get("answers")
    if isinstance(answers, list):
        for item in answers[:64]:
            peer = peer_name(str(item.get("peer_id", ""))) if isinstance(item, dict) else ""
            lines.append(((peer or "answer", "title"),))
            lines += _tree(clean_tree(item, limit=1024), 1)
            lines.append(())
    elif entry.answer:
        lines += _tree(clean_tree(entry.answer, limit=1024), 0)
    return lines[:MAX_LINES]


def _tree(value: object, depth: int) -> list[Line]:
    pad = "  " * depth
    if isinstance(value, dict):
        lines: list[Line] = []
        for key, item in value.items():
            if isinstance(item, list) and not any(isinstance(one, dict | list) for one in item):
                item = ", ".join(_leaf(one) for one in item) or "none"
            if isinstance(item, dict | list) and item:
                lines.append(((f"{pad}{key}", "dim"),))
                lines += _tree(item, depth + 1)
            else:
                lines.append(((f"{pad}{key:<18} ", "dim"), (_leaf(item), "base")))
        return lines
    if isinstance(value, list):
        return [line for item in value for line in (*_tree(item, depth), ())]
    return [((f"{pad}{_leaf(value)}", "base"),)]


def _leaf(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return "none"
    return printable(str(value), 1024)
