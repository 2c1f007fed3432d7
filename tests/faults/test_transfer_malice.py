"""More peers that mean harm: bytes of elsewhere, lies about sizes, peers that never read.

As in `test_transfer_peers`: the file arrives from the honest peer, nothing wrong is on disk, and
whoever did nothing wrong is not blamed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from beside_evil import Result, beside
from scripted_peer import Scripted, scripted
from transfer_kit import KIB, MIB, MemoryStream, Published, Swarm, inline, memory_streams

from node.errors import PlainError
from node.torrent import merkle, messages
from node.torrent.folder import RealFolder
from node.torrent.sizes import Layout
from node.torrent.transfer import link
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.download import Download, Plan
from node.torrent.transfer.progress import State
from node.torrent.transfer.streams import StreamEndedError


async def beside_script(tmp_path: Path, what: str, head_start: float = 2.0) -> Result:
    def add(swarm: Swarm, download: Download) -> None:
        scripted(swarm, download, "evil", lambda peer: getattr(peer, what)())

    return await beside(tmp_path, add, head_start=head_start)


@pytest.mark.parametrize("what", ["piece_of_elsewhere", "replays"])
async def test_right_bytes_in_the_wrong_place_are_wrong_bytes(
    tmp_path: Path, autojump_clock: object, what: str
) -> None:
    result = await beside_script(tmp_path, what)
    assert [item.peer_id for item in result.blamed] == ["evil"]
    assert result.source("evil").state == "banned"
    assert "wrong bytes" in result.banned("evil")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("shorter", "DATA nobody asked for"),
        ("other_offset", "DATA nobody asked for"),
        ("floods_with_have", "too many control frames"),
        ("many_keys", "a frame of 10888891 bytes, 307200 are allowed"),
        ("many_keys_that_fit", "HELLO"),
        ("deep_hello", "HELLO"),
        ("deep_unknown_key", "HELLO"),
        ("endless_error", "ERROR of 307200 bytes"),
    ],
)
async def test_more_broken_rules(
    tmp_path: Path, autojump_clock: object, what: str, told: str
) -> None:
    result = await beside_script(tmp_path, what, head_start=30)
    assert result.source("evil").strikes == 3
    assert told in result.banned("evil")
    assert not result.blamed


@pytest.mark.parametrize(
    ("what", "closed_within", "reason"),
    [
        ("half_a_header", 11, "no HELLO within 10 s"),
        ("header_loris", 17, "a frame took longer than 15 s"),
        ("never_reads", 12, "no hashes within 10 s"),
        ("chokes_and_unchokes", 40, "not read"),
    ],
)
async def test_a_peer_that_crawls_or_never_reads_is_closed_in_time(
    tmp_path: Path, autojump_clock: object, what: str, closed_within: float, reason: str
) -> None:
    def add(swarm: Swarm, download: Download) -> None:
        narrow(swarm, download, "evil", what)

    result = await beside(tmp_path, add, head_start=closed_within)
    closed = [
        source.reason
        for item in result.swarm.seen
        for source in item.sources
        if source.peer_id == "evil" and source.state == "backoff"
    ]
    assert closed and reason in closed[0]
    assert not result.blamed and not result.banned("evil")


def narrow(swarm: Swarm, download: Download, name: str, what: str) -> None:
    """A scripted peer whose connection holds only a little that it did not read."""

    async def open_stream() -> MemoryStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_streams(room=8 * KIB)

        async def run() -> None:
            try:
                await getattr(Scripted(theirs, swarm.published), what)()
            except (StreamEndedError, messages.WireError):
                return

        swarm.nursery.start_soon(run)
        return ours

    download.add_source(name, open_stream)


async def test_a_full_queue_ends_its_own_session_whoever_filled_it(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Requests and cancels are queued by the clock and by the progress of other peers: the one
    that is too many must not end the download."""
    published = Published(tmp_path / "source", 12 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        narrow(swarm, download, "evil", "stops_reading")
        nursery.start_soon(download.run)
        await trio.sleep(1)
        (session,) = download._hub.sessions
        blocks = published.plan.layout.blocks(0) * 64
        for _ in range(link.OUTBOX_BYTES // (64 * 12) + 100):
            session.cancel(blocks)
        session.request(blocks)
        await trio.sleep(0.1)
        source = download.snapshot.sources[0]
        assert (source.state, source.strikes) == ("backoff", 0)
        assert source.reason == "the peer does not read what it asks for"
        swarm.honest(download, "honest")
        with trio.fail_after(60):
            while download.snapshot.state != State.DONE:
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    swarm.check()


async def test_lies_about_have_cost_nothing_but_the_question(
    tmp_path: Path, autojump_clock: object
) -> None:
    result = await beside_script(tmp_path, "lies_about_have", head_start=20)
    assert result.took < 20 + 10
    assert not result.banned("evil") and not result.blamed
    stalled = [item.reason for item in result.swarm.seen if item.state == State.STALLED]
    assert any("no connected peer has" in reason for reason in stalled)


# ---------------------------------------------------------------- sizes, layers and proofs


@pytest.mark.parametrize("size", [3 * 256 * KIB, 3 * 256 * KIB - 5])
async def test_a_size_that_does_not_belong_to_the_root_fails_plainly(
    tmp_path: Path, autojump_clock: object, size: int
) -> None:
    """Whoever publishes the lie may serve it too: each hash is proven, but there are too many."""
    published = Published(tmp_path / "source", 4 * 256 * KIB)
    bans = Bans(trio.current_time)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        plan = replace(published.plan, size=size)
        download = Download(plan, RealFolder(swarm.target), bans=bans, run_sync=inline)
        scripted(swarm, download, "liar", lambda peer: peer.refuses_all())
        with pytest.raises(PlainError, match="do not fit its size"):
            await download.run()
        nursery.cancel_scope.cancel()
    assert download.snapshot.state == State.FAILED
    assert list(swarm.target.iterdir()) == []
    assert not bans.banned("liar", plan.root)


class BigLayer:
    """A plan of 1500 pieces and the tree over its layer; there is no file behind it."""

    def __init__(self, published: Published) -> None:
        self.layout = Layout(1500 * 256 * KIB, 256 * KIB)
        layer = b"".join(
            merkle.piece_hash(number.to_bytes(4, "big"), Layout(4, 256 * KIB))
            for number in range(self.layout.pieces)
        )
        self.tree = merkle.Tree(layer, self.layout.piece_layer, self.layout.height)
        self.plan = Plan(
            published.plan.info_hash,
            self.tree.top,
            self.layout.size,
            self.layout.piece_length,
            published.plan.filename,
        )

    async def answer(self, peer: Scripted, spoil: str) -> None:
        """Serve the layer; `spoil` names what is wrong with every answer."""
        await peer.greet()
        while True:
            req_id, request = await peer.link.next()
            if not isinstance(request, messages.HashRequest):
                await peer.drain()
                return
            nodes, uncles = self.tree.answer(
                request.layer, request.index, request.count, request.proof
            )
            assert uncles
            match spoil:
                case "node":
                    nodes = nodes[:40] + bytes([nodes[40] ^ 1]) + nodes[41:]
                case "proof":
                    uncles = uncles[:-1] + bytes([uncles[-1] ^ 1])
                case "order":
                    nodes = nodes[32:64] + nodes[:32] + nodes[64:]
                case "range":
                    width = 1 << (self.layout.height - request.layer)
                    nodes, uncles = self.tree.answer(
                        request.layer,
                        (request.index + request.count) % width,
                        request.count,
                        request.proof,
                    )
            await peer.send(messages.Hashes(request, nodes, uncles), req_id)


@pytest.mark.parametrize("spoil", ["node", "proof", "order", "range"])
async def test_a_bad_layer_or_proof_bans_who_sent_it_and_nobody_else(
    tmp_path: Path, autojump_clock: object, spoil: str
) -> None:
    published = Published(tmp_path / "source", 1)
    big = BigLayer(published)
    bans = Bans(trio.current_time)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = Download(big.plan, RealFolder(swarm.target), bans=bans, run_sync=inline)
        scripted(swarm, download, "evil", lambda peer: big.answer(peer, spoil))

        async def run() -> None:
            with pytest.raises(PlainError):
                await download.run()

        nursery.start_soon(run)
        await trio.sleep(1)
        assert "piece hashes that do not lead" in bans.banned("evil", big.plan.root)
        assert download.layer is None
        scripted(swarm, download, "honest", lambda peer: big.answer(peer, ""))
        await trio.sleep(1)
        assert download.layer is not None
        assert not bans.banned("honest", big.plan.root)
        download.cancel()
        nursery.cancel_scope.cancel()


async def test_verdicts_name_no_innocent(tmp_path: Path, autojump_clock: object) -> None:
    """All kinds at once beside two honest peers."""
    published = Published(tmp_path / "source", 12 * MIB, piece_length=1 * MIB)
    blamed: list[Verdict] = []
    bans = Bans(trio.current_time)
    kinds = [
        "piece_of_elsewhere",
        "replays",
        "shorter",
        "lies_about_have",
        "header_loris",
        "never_reads",
        "chokes_and_unchokes",
        "many_keys",
        "refuses_all",
        "hangs_up",
        "falls_silent",
        "twice",
    ]
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans, blamed=blamed.append)
        for kind in kinds:
            scripted(swarm, download, kind, lambda peer, kind=kind: getattr(peer, kind)())  # type: ignore[misc]
        for name in ("honest", "honest too"):
            swarm.honest(download, name, rate=1 * MIB)
        await download.run()
        nursery.cancel_scope.cancel()
    swarm.check()
    assert {item.peer_id for item in blamed} <= {"piece_of_elsewhere", "replays"}
    for name in ("honest", "honest too"):
        assert not bans.banned(name, published.plan.root)
        assert not bans.strikes(name, published.plan.root)
