"""Noise with AES-GCM beside libp2p's own suite: who uses what, and the change of keys."""

from __future__ import annotations

import pytest
import trio
from fast_kit import SUITES, hosts, opened, read_hash, send_random
from hypothesis import given, settings, strategies as st
from libp2p.abc import INetStream
from libp2p.network.stream.exceptions import StreamEOF
from noise.connection import NoiseConnection

from node.network.dialer import Dialer, DialFailed
from node.network.fast import AES_GCM, CHACHA_POLY, Suite, offered, suites
from node.network.fast.noise_messages import BadMessage, Opener, Sealer
from node.network.host import build_host, running_host, set_handler
from node.network.identity import Identity
from node.network.streams import live_connections

AES, NOISE = "/llama-noise-aesgcm/1.0.0", "/noise"
KEY = bytes(range(32))
FEW = Suite(AES_GCM.protocol, AES_GCM.noise_name, AES_GCM.cipher, AES_GCM.nonce, 3)


@pytest.mark.parametrize(
    ("dialling", "listening", "used"),
    [
        ("ours", "ours", AES),
        ("ours", "chacha", NOISE),
        ("chacha", "ours", NOISE),
        ("aes", "ours", AES),
        ("ours", "stock", NOISE),
        ("stock", "ours", NOISE),
    ],
)
async def test_the_best_suite_of_both_is_used_and_carries_data(
    dialling: str, listening: str, used: str
) -> None:
    received: list[str] = []
    async with hosts(dialling, listening) as (one, two):
        [connection] = live_connections(one, two.get_id())
        assert connection.get_negotiated_security_protocol() == used
        done = trio.Event()

        async def take(stream: INetStream) -> None:
            received.append(await read_hash(stream.read, 3_000_000, StreamEOF))
            done.set()

        set_handler(two, "/test/1", take)
        stream = await opened(one, two, "/test/1")
        sent = await send_random(stream.write, 3_000_000, seed=1)
        with trio.fail_after(30):
            await done.wait()
    assert received == [sent]


async def test_two_hosts_without_a_common_suite_do_not_connect() -> None:
    with pytest.RaisesGroup(DialFailed, allow_unwrapped=True, flatten_subgroups=True):
        async with hosts("aes", "chacha"):
            raise AssertionError("they connected")


@pytest.mark.parametrize("listening", sorted(SUITES))
async def test_an_unknown_peer_is_dialled_with_the_suite_it_has(listening: str) -> None:
    one = build_host(Identity.create(), "tcp", suites=SUITES["ours"])
    two = build_host(Identity.create(), "tcp", suites=SUITES[listening])
    async with (
        running_host(one, "127.0.0.1", 0, "tcp"),
        running_host(two, "127.0.0.1", 0, "tcp") as addresses,
    ):
        assert await Dialer(one).dial_unknown(addresses[0]) == two.get_id()
        [connection] = live_connections(one, two.get_id())
        assert connection.muxed_conn.peer_id == two.get_id()


@pytest.mark.parametrize("suite", [CHACHA_POLY, AES_GCM, FEW], ids=["chacha", "aes", "rekeyed"])
@given(st.lists(st.binary(max_size=100), max_size=12), st.integers(0, 50))
@settings(deadline=None)
def test_messages_come_back_across_changes_of_the_key(
    suite: Suite, messages: list[bytes], nonce: int
) -> None:
    sealer, opener = Sealer(KEY, nonce, suite), Opener(KEY, nonce, suite)
    for message in messages:
        data = b"".join(sealer.seal(message))
        opener.space()[: len(data)] = data
        assert opener.filled(len(data)) == [message]


def test_the_key_changes_when_the_suite_says_and_not_before() -> None:
    kept = Suite(FEW.protocol, FEW.noise_name, FEW.cipher, FEW.nonce)
    changing, same = Sealer(KEY, 0, FEW), Sealer(KEY, 0, kept)
    pairs = [(changing.seal(b"text"), same.seal(b"text")) for _ in range(7)]
    assert [one == two for one, two in pairs] == [True] * 3 + [False] * 4
    late = Opener(KEY, 3, kept)
    data = b"".join(pairs[3][0])
    late.space()[: len(data)] = data
    with pytest.raises(BadMessage):
        late.filled(len(data))


@pytest.mark.parametrize("suite", [CHACHA_POLY, AES_GCM], ids=["chacha", "aes"])
def test_messages_and_rekey_are_those_of_the_noise_framework(suite: Suite) -> None:
    """Against the noiseprotocol package: our messages are its messages, our REKEY its REKEY."""
    one, two = (NoiseConnection.from_name(suite.noise_name.replace(b"XX", b"NN")) for _ in range(2))
    one.set_as_initiator()
    two.set_as_responder()
    for end in (one, two):
        end.start_handshake()
    two.read_message(one.write_message())
    one.read_message(two.write_message())
    theirs = one.noise_protocol.cipher_state_encrypt
    key = bytes(theirs.k)
    sealer = Sealer(key, theirs.n, suite)
    for text in (b"", b"one", bytes(5000)):
        assert sealer.seal(text)[1] == one.encrypt(text)
    theirs.rekey()
    assert suite.next_key(suite.cipher(key)) == theirs.k


def test_aes_is_offered_where_it_is_faster_and_never_instead_of_the_standard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for aes, expected in ((1.0, (AES_GCM, CHACHA_POLY)), (3.0, (CHACHA_POLY,))):
        times = {AES_GCM: aes, CHACHA_POLY: 3.0}
        monkeypatch.setattr(suites, "_seconds", times.__getitem__)
        assert offered() == expected


def test_a_machine_without_the_cipher_offers_the_standard_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(suite: Suite) -> float:
        raise suites.UnsupportedAlgorithm("no AES-GCM here")

    monkeypatch.setattr(suites, "_seconds", missing)
    assert offered() == (CHACHA_POLY,)


def test_the_trial_is_short_and_real() -> None:
    for suite in (AES_GCM, CHACHA_POLY):
        assert 0 < suites._seconds(suite) < 0.1
