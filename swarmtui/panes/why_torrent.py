"""Why, for a file: how its transfer stands, piece by piece and source by source."""

from __future__ import annotations

from itertools import groupby

from node.events import SourceRow
from node.state import Torrent
from swarmtui import transfers
from swarmtui.amounts import DASH, bar, duration, left, of, percent, plural, rate, ratio, size, took
from swarmtui.panes.lines import BLANK, field, head, note, step
from swarmtui.panes.torrents import places
from swarmtui.panes.view import View
from swarmtui.widgets.text import Line, Span, peer_name, printable

MAP_CELLS = 256
MAP_WIDTH = 32
BAR_CELLS = 24
MOST_SOURCES = 32
MOST_PEERS = 32
_GLYPHS = {"0": "·", "8": "█", **dict.fromkeys("12", "░"), **dict.fromkeys("345", "▒")}
_SOURCE_STYLES = {
    "active": "good", "idle": "base", "choked": "warn", "stalled": "warn", "parole": "warn",
    "backoff": "warn", "banned": "bad",
}


def explain_torrent(view: View, key: str) -> list[Line]:
    """Everything known about the file with the key `key` in the state, and the next step."""
    item = view.state.torrents.get(key)
    if item is None:
        return [note("This file is no longer known.")]
    lines = _top(item)
    lines += _figures(view, item)
    lines += _names(item)
    lines += _piece_map(item)
    lines += _sources(item)
    if item.blamed:
        lines += [BLANK, head(f"Wrong data {len(item.blamed)}")]
        lines += [((printable(text, 400), "bad"),) for text in item.blamed]
    if item.upload_peers:
        lines += [BLANK, head(f"Going out to {plural(len(item.upload_peers), 'peer')}")]
        lines.append((("  ".join(peer_name(i) for i in item.upload_peers[:MOST_PEERS]), "base"),))
    lines += _peers(item)
    return [*lines, BLANK, head("Next step"), *steps(view, item)]


def _peers(item: Torrent) -> list[Line]:
    peers = transfers.peers_of(item)
    lines: list[Line] = [BLANK, head(f"Peers that have it {len(peers)}")]
    if not peers:
        return [*lines, note("None known.")]
    lines.append((("  ".join(peer_name(i) for i in peers[:MOST_PEERS]), "base"),))
    return lines if len(peers) <= MOST_PEERS else [
        *lines, note(f"and {len(peers) - MOST_PEERS} more")
    ]


def _top(item: Torrent) -> list[Line]:
    word, style = transfers.state_word(item)
    done = transfers.share(item)
    line: list[Span] = [(word, style)]
    if done is not None and (done < 1 or item.moving):
        filled, rest = bar(done, BAR_CELLS)
        line += [
            (f" {percent(done)}  ", "strong"), (filled, style if item.moving else "base"),
            (rest, "dim"),
        ]
    lines: list[Line] = [((printable(item.filename, 300), "strong"),), tuple(line)]
    reason = transfers.trouble(item)
    if reason:
        lines.append(((reason, "bad" if item.phase == "failed" else "warn"),))
    elif sentence := transfers.phase_sentence(item):
        lines.append(note(sentence))
    return lines


def _figures(view: View, item: Torrent) -> list[Line]:
    lines = []
    exact = f" ({item.size:,} bytes)" if item.size > 0 else ""
    if item.size > 0 and (item.moving or item.phase in ("failed", "cancelled", "hashing")):
        done = item.done if item.phase != "hashing" else int(item.progress * item.size)
        lines.append(field("done", f"{of(done, item.size)}{exact}"))
    else:
        lines.append(field("size", f"{size(item.size)}{exact}"))
    if item.pieces:
        each = f", {size(item.piece_length)} each" if item.piece_length else ""
        lines.append(field("pieces", f"{item.pieces_done} of {item.pieces}{each}"))
    if item.moving:
        wasted = f", {size(item.wasted)} of them thrown away" if item.wasted else ""
        got = f"{size(item.fetched)} fetched since the start{wasted}" if item.fetched else ""
        now = rate(item.rate_down) if transfers.down_rate(item) >= 1 else "nothing now"
        lines.append(field("down", f"{now}, {got}" if got else now))
        eta = left(transfers.time_left(item))
        lines.append(field("left", f"{eta}, running for {duration(item.seconds)}"))
    elif item.fetched and item.seconds > 0:
        speed = rate(item.fetched / item.seconds)
        words = f"{size(item.fetched)} in {took(item.seconds)} ({speed})"
        if item.came_from:
            words += f" from {plural(item.came_from, 'source')}"
        lines.append(field("fetched", words))
    if item.uploaded or item.rate_up >= 1:
        sent = f"{size(item.uploaded)} sent, ratio {ratio(item.ratio)}"
        now = rate(item.rate_up) if item.rate_up >= 1 else "nothing now"
        lines.append(field("up", f"{now}, {sent}"))
    shard_id = transfers.shard_of(item)
    lines.append(field("shard", str(shard_id) if shard_id is not None else DASH))
    lines.append(field("where", places(item)))
    wanted = transfers.wanted_words(item)
    if wanted:
        lines.append(field("wanted by", wanted))
    if item.registered_at:
        lines.append(field("DHT", f"registered, {view.ages.ago(item.registered_at)}"))
    return lines


def _names(item: Torrent) -> list[Line]:
    lines = [field("info hash", transfers.hash_words(item))]
    root = printable(item.root, 128)
    said = bool(root) and not (item.local or item.phase)
    lines.append(field("root", f"{root}, as a peer says" if said else root))
    pin = transfers.pin_of(item)
    if pin:
        lines.append(field("pin", pin, "strong"))
    return lines


def map_cells(item: Torrent) -> str:
    """The file in at most 256 cells '0' … '8'; empty where nothing of it is or comes here."""
    if item.piece_map:
        return "".join(cell if cell in "012345678" else "0" for cell in item.piece_map[:MAP_CELLS])
    if item.phase in ("seeding", "done") and item.pieces:
        return "8" * min(item.pieces, MAP_CELLS)
    return ""


def _piece_map(item: Torrent) -> list[Line]:
    cells = map_cells(item)
    if not cells:
        return []
    lines: list[Line] = [BLANK, head(f"Pieces {transfers.pieces_words(item)}")]
    for start in range(0, len(cells), MAP_WIDTH):
        spans: list[Span] = [(f"{start * 100 // len(cells):>3} % ", "dim")]
        for cell, run in groupby(cells[start : start + MAP_WIDTH]):
            style = {"0": "dim", "8": "good"}.get(cell, "warn")
            spans.append((_GLYPHS.get(cell, "▓") * len(list(run)), style))
        lines.append(tuple(spans))
    # Of a file whose pieces are shown one by one the last is shorter: the average would mislead.
    shown_singly = item.piece_length and len(cells) == item.pieces
    whole = item.piece_length if shown_singly else item.size / len(cells)
    each = f"   a cell is {size(whole)}" if item.size > 0 else ""
    lines.append(
        (
            ("      ", "base"), ("█", "good"), (" verified  ", "dim"), ("░▒▓", "warn"),
            (" partly  ", "dim"), ("·", "dim"), (" missing", "dim"), (each, "dim"),
        )
    )
    return lines


def _sources(item: Torrent) -> list[Line]:
    if not item.sources:
        return []
    lines: list[Line] = [
        BLANK,
        head(f"Sources {len(item.sources)}, {transfers.connected(item)} connected"),
        ((f"{'PEER':<10}{'STATE':<11}{'RATE':>10}{'WINDOW':>9}{'STRIKES':>8}", "head"),),
    ]
    by_rate = sorted(item.sources, key=lambda source: (-source.rate, source.peer_id))
    for source in by_rate[:MOST_SOURCES]:
        lines += _source(source, item)
    if len(by_rate) > MOST_SOURCES:
        lines.append(note(f"and {len(by_rate) - MOST_SOURCES} more"))
    return lines


def _source(source: SourceRow, item: Torrent) -> list[Line]:
    state = printable(source.state, 10)
    lines: list[Line] = [
        (
            (f"{peer_name(source.peer_id):<10}", "strong"),
            (f"{state:<11}", _SOURCE_STYLES.get(source.state, "dim")),
            (f"{rate(source.rate):>10}{size(source.window):>9}", "base"),
            (f"{source.strikes or DASH:>8}", "bad" if source.strikes else "dim"),
        )
    ]
    if source.reason:
        lines.append(((f"  {printable(source.reason, 400)}", "warn"),))
    figures = [f"{size(source.received)} received"] if source.received else []
    figures += [f"{size(source.in_flight)} asked for"] if source.in_flight else []
    if source.have:
        figures.append("has all pieces" if source.have == item.pieces else f"{source.have} pieces")
    if figures:
        lines.append(note(f"  {', '.join(figures)}"))
    return lines


# ---------------------------------------------------------------- what to do


def steps(view: View, item: Torrent) -> list[Line]:
    """What the operator can do about the file."""
    if item.phase == "failed":
        return _failed_steps(view, item)
    if item.phase == "paused":
        return [step("Press P to go on, X to give it up.")]
    if item.phase == "stalled":
        return [step("It goes on by itself when a source answers. Press 2 to see the peers.")]
    if item.phase in ("resolving", "waiting"):
        return [step("It begins by itself when a node offers it. X gives it up.")]
    if item.moving:
        return [step("Wait. P pauses it, X gives it up.")]
    if item.phase == "hashing":
        return [step("Wait: it is offered to the others once its hashes are known.")]
    if item.local or item.phase in ("seeding", "done"):
        if transfers.pin_of(item):
            return [step("Nothing to do. y copies name@root: with --pin others get just this.")]
        return [step("Nothing to do: it is offered to the others.")]
    if item.peers:
        return [step("Press D to download and verify it, from all who have it at once.")]
    if item.phase == "cancelled":
        return [step("Press D to start again; what was kept is not fetched twice.")]
    return [step("Nobody offers it now. Start a node that has it.")]


def _failed_steps(view: View, item: Torrent) -> list[Line]:
    lines = [step(printable(item.next_step, 600))] if item.next_step else []
    if item.offers:
        lines.append(step("Press D and choose the content you trust:"))
        what = transfers.what_of(view.state, item)
        for root, words in map(transfers.offer_parts, item.offers):
            if root:
                lines.append(((f"  swarmtui torrent get {what}@{root}", "strong"),))
            lines.append(note(f"    {words}"))
    elif not lines:
        lines.append(step("Press D to try again; what was verified is not fetched twice."))
    return lines
