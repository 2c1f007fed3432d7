"""What the keys do: each action asks the door, or opens a dialog that does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.errors import PlainError
from node.requests import LOAD, SEND, UNLOAD
from swarmtui.actions import BINARY, cli_line
from swarmtui.amounts import percent
from swarmtui.commanding import answer_lines
from swarmtui.panes.view import View, answering, peer_state
from swarmtui.panes.why import problem_lines
from swarmtui.screens.detail import help_lines
from swarmtui.screens.dialog import ConfirmDialog, InputDialog, KeyDialog
from swarmtui.transfers import shard_of
from swarmtui.widgets.text import Ages, Line, milliseconds, peer_name, printable, size

if TYPE_CHECKING:
    from node.state import State
    from swarmtui.app import SwarmApp
    from swarmtui.panes.pane import Pane

ME = "me"
ALL = "all"


class Commands:
    """Mixed into the main screen."""

    if TYPE_CHECKING:
        active: int
        wanted: str

        @property
        def tui(self) -> SwarmApp: ...
        @property
        def selected(self) -> tuple[str, str]: ...
        @property
        def panes(self) -> dict[int, Pane]: ...
        def view(self) -> View: ...
        def redraw(self) -> None: ...
        def set_wanted(self, text: str) -> None: ...

    # ------------------------------------------------------------ sending

    def send(self, command: str, to: str, **more: Any) -> None:
        """Send a command to a peer, to all or to this node; the strip shows how it goes."""
        shard_id = more.get("shard_id")
        text = more.get("text")
        params: dict[str, Any] = {"command": command, "to": to, "origin": "console"}
        if shard_id is not None:
            params["params"] = {"shard_id": shard_id}
        if text is not None:
            params["text"] = text
        name = SEND
        if to == ME and command in ("LOAD_SHARD", "UNLOAD_SHARD"):
            name = LOAD if command == "LOAD_SHARD" else UNLOAD
            params = {"shard_id": shard_id}
        self.tui.commander.ask(
            self.tui.door,
            name,
            params,
            command=command if shard_id is None else f"{command} {shard_id}",
            target=target_name(to),
            cli=cli_line(command, to, shard_id, text),
        )
        self.tui.notice = ""
        self.redraw()

    def tell(self, notice: str) -> None:
        self.tui.notice = notice
        self.redraw()

    def action_status_of_selected(self) -> None:
        target = self._target()
        if target is None:
            self.tell("Nobody to ask: no peer is selected. Press 2 to choose one.")
        else:
            self.send("GET_STATUS", target)

    def action_status_of_all(self) -> None:
        self.send("GET_STATUS", ALL)

    def _target(self) -> str | None:
        """Whom `i` and `m` mean: the selected peer, or the best holder of the selected item."""
        state = self.view().state
        kind, key = self.selected
        if kind == "shard" and key and (shard := state.shards.get(int(key))) is not None:
            near = answering(state, shard)
            if near:
                return near[0][1].peer_id
            if shard.local.phase == "loaded":
                return ME
            if shard.holders:
                return min(shard.holders)
        if kind == "torrent" and (torrent := state.torrents.get(key)) is not None:
            return ME if torrent.local else torrent.peers[0] if torrent.peers else None
        if kind == "peer" and key in state.peers:
            return key
        cursor = self.panes[2].cursor
        return cursor if cursor in state.peers else min(state.peers, default=None)

    def action_message(self) -> None:
        state = self.view().state
        if not state.peers:
            self.tell("Nobody to write to: no peer has been found yet.")
            return
        targets = [(ALL, f"all {len(state.peers)} peers"), *_peer_targets(self.view())]
        chosen = _index(targets, self._target())

        def sent(result: str | None) -> None:
            if result is not None:
                to, text = result.split("\n", 1)
                if text.strip():
                    self.send("MESSAGE", to, text=text)
                else:
                    self.tell("Nothing was sent: the message was empty.")

        self.tui.push_screen(InputDialog("Test message", targets, chosen), sent)

    # ------------------------------------------------------------ changing something

    def action_load(self) -> None:
        shard_id = self._shard()
        if shard_id is None:
            return
        state = self.view().state
        targets = [(ME, self._here(state, shard_id)), *self._load_targets(shard_id)]
        kind, key = self.selected
        chosen = _index(targets, key) if kind == "peer" else 0
        self._confirm("LOAD_SHARD", shard_id, targets, chosen)

    def action_unload(self) -> None:
        shard_id = self._shard()
        if shard_id is None:
            return
        state = self.view().state
        shard = state.shards[shard_id]
        targets: list[tuple[str, str]] = []
        if shard.local.phase in ("loaded", "loading"):
            targets.append((ME, "this node"))
        loaded = {peer_id for peer_id, holder in shard.holders.items() if holder.loaded}
        targets += [item for item in _peer_targets(self.view()) if item[0] in loaded]
        if not targets:
            self.tell(f"Nobody has shard {shard_id} loaded: there is nothing to unload.")
            return
        self._confirm("UNLOAD_SHARD", shard_id, targets, 0)

    def _shard(self) -> int | None:
        """The shard meant: of the selected file, else the one under the shards pane's cursor."""
        kind, key = self.selected
        item = self.view().state.torrents.get(key) if kind == "torrent" else None
        if item is not None:
            shard_id = shard_of(item)
            if shard_id in self.view().state.shards:
                return shard_id
            self.tell(f"{printable(item.filename, 80)} holds no shard of this model.")
            return None
        cursor = self.panes[1].cursor
        if cursor is None or int(cursor) not in self.view().state.shards:
            self.tell("No shard is selected. Press 1 to choose one.")
            return None
        return int(cursor)

    def _here(self, state: State, shard_id: int) -> str:
        local = state.shards[shard_id].local
        words = {
            "none": "no file here yet: it is downloaded and verified first",
            "file": f"file on disk, {size(local.size)}",
            "downloading": f"already downloading, {percent(local.progress)}",
            "loading": "already loading",
            "loaded": "already loaded",
            "failed": "failed before",
        }
        return f"this node    {words[local.phase]}"

    def _load_targets(self, shard_id: int) -> list[tuple[str, str]]:
        holders = self.view().state.shards[shard_id].holders
        found = []
        for key, label in _peer_targets(self.view()):
            holder = holders.get(key)
            extra = "" if holder is None else "  loaded" if holder.loaded else f"  {holder.phase}"
            found.append((key, label + extra))
        return found

    def _confirm(
        self, command: str, shard_id: int, targets: list[tuple[str, str]], chosen: int
    ) -> None:
        verb = "loads" if command == "LOAD_SHARD" else "releases"

        def describe(to: str) -> list[Line]:
            who = "This node" if to == ME else f"Peer {target_name(to)}"
            return [
                ((f"{who} {verb} shard {shard_id}.", "base"),),
                (("Sends  ", "dim"), (f'{command} {{"shard_id": {shard_id}}}', "strong")),
                (("Same   ", "dim"), (cli_line(command, to, shard_id), "base")),
            ]

        def answered(to: str | None) -> None:
            if to is None:
                self.tell(f"{command} {shard_id} was not sent.")
            else:
                self.send(command, to, shard_id=shard_id)

        where = "loads it into" if command == "LOAD_SHARD" else "releases it from"
        question: list[Line] = [((f"Which node {where} its memory?", "strong"),)]
        title = f"{command} shard {shard_id}"
        self.tui.push_screen(ConfirmDialog(title, question, targets, describe, chosen), answered)

    # ------------------------------------------------------------ looking

    def action_help(self) -> None:
        lines = help_lines()
        self.tui.push_detail("Help", lambda view: lines, commands=False)

    def action_answer(self) -> None:
        entry = self.tui.commander.last
        if entry is None:
            self.tell("No command was sent yet.")
            return
        self.tui.push_detail(f"Answer to {entry.command}", lambda view: answer_lines(entry))

    def action_copy(self) -> None:
        entry = self.tui.commander.last
        state = self.view().state
        if not state.peers and state.node is not None and state.node.join_command:
            text = printable(state.node.join_command, 512)
        elif entry is not None:
            text = entry.cli
        else:
            self.tell("No command was sent yet.")
            return
        self.tui.copy_to_clipboard(text)
        self.tell(f"Copied: {text}")

    def action_problems(self) -> None:
        unread = self.tui.themes.problems
        self.tui.push_detail("Problems", lambda view: problem_lines(view, unread))

    def action_filter(self) -> None:
        before = self.wanted

        def done(result: str | None) -> None:
            self.set_wanted(before if result is None else printable(result.split("\n", 1)[1], 200))

        self.tui.push_screen(InputDialog("Show only what holds", (), 0, before), done)

    def action_theme(self) -> None:
        self.tell(self.tui.next_theme())

    def action_bundle(self) -> None:
        app = self.tui
        door = app.door
        if door is None:
            self.tell("The node is still starting: there is nothing to report yet.")
            return
        entry = app.commander.begin("bug report", "file", f"{BINARY} bundle")
        text, picture = app.screen_text(), app.export_screenshot(title="swarmtui")
        self.redraw()

        def write() -> None:
            from swarmtui.bundle import write_bundle

            try:
                path = write_bundle(door, Path.cwd(), screen_text=text, screen_svg=picture)
            except PlainError as error:
                app.commander.fail(entry, error)
            except Exception as error:
                reason = printable(str(error), 160) or type(error).__name__
                app.commander.fail(entry, PlainError(f"The report failed: {reason}."))
            else:
                app.commander.finish(entry, f"wrote {path.name} in {path.parent}")
            app.wake()

        threading.Thread(target=write, name="bug-report", daemon=True).start()

    # ------------------------------------------------------------ leaving

    def action_quit_dialog(self) -> None:
        self.tui.push_screen(quit_dialog(self.tui.attached), self._leave)

    def _leave(self, result: str | None) -> None:
        if result == "stop" and self.tui.attached:
            self.tui.stop_other()
        elif result in ("stop", "headless", "detached"):
            self.tui.exit(result)


def quit_dialog(attached: bool) -> KeyDialog:
    """Stop the node, leave it running, or stay."""
    if attached:
        lines: list[Line] = [(("The node runs in another process.", "base"),), ()]
        away = ("d", "close this console; the node goes on", "detached")
    else:
        lines = [(("The node runs inside this console's process.", "base"),), ()]
        away = ("h", "leave the node running headless, without a console", "headless")
    stop = ("s", "stop the node: it says goodbye to the swarm", "stop")
    keys = [away, stop, ("c", "cancel: stay here", "")]
    return KeyDialog("Quit?", lines, keys)


def target_name(to: str) -> str:
    """A target as people read it."""
    return {ME: "this node", ALL: "all"}.get(to) or peer_name(to)


def _index(targets: list[tuple[str, str]], key: str | None) -> int:
    return next((number for number, item in enumerate(targets) if item[0] == key), 0)


def _peer_targets(view: View) -> list[tuple[str, str]]:
    """Every peer with what matters for choosing it, those that answer first."""
    ages = Ages(view.now)
    moment = View(view.state, ages)
    found = []
    for peer in sorted(
        view.state.peers.values(), key=lambda item: (not item.answering, item.peer_id)
    ):
        word, _ = peer_state(moment, peer)
        rtt = f" {milliseconds(peer.rtt_ms)}" if peer.answering else ""
        found.append((peer.peer_id, f"{peer_name(peer.peer_id)}    {word}{rtt}"))
    return found
