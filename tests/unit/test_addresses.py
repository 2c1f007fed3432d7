"""Addresses: what is listened on, what others are told, what strangers may claim."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given, strategies as st
from multiaddr import Multiaddr

from node.errors import PlainError
from node.network import addresses as ad
from node.network.identity import Identity

PEER = Identity.create().peer_id
OTHER = Identity.create().peer_id


def network(monkeypatch: pytest.MonkeyPatch, **interfaces: list[str]) -> None:
    import socket

    def entries(texts: list[str]) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(family=socket.AF_INET6 if ":" in text else socket.AF_INET, address=text)
            for text in texts
        ]

    found = {name: entries(texts) for name, texts in interfaces.items()}
    up = {name: SimpleNamespace(isup=name != "down0") for name in interfaces}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: up)


def texts(items: list[Multiaddr]) -> list[str]:
    return [str(item) for item in items]


def test_an_unspecified_address_becomes_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock host on 0.0.0.0 tells others to dial 0.0.0.0."""
    network(
        monkeypatch,
        lo=["127.0.0.1", "::1"],
        eth0=["192.0.2.5", "fe80::1%eth0", "2001:db8::5"],
        down0=["198.51.100.9"],
    )
    listening = [Multiaddr("/ip4/0.0.0.0/tcp/4001"), Multiaddr("/ip6/::/udp/4001/quic-v1")]
    told = ad.announced(listening)
    assert texts(told) == ["/ip6/2001:db8::5/udp/4001/quic-v1", "/ip4/192.0.2.5/tcp/4001"]


def test_loopback_is_told_only_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    network(monkeypatch, lo=["127.0.0.1"])
    assert texts(ad.announced([Multiaddr("/ip4/0.0.0.0/tcp/1")])) == ["/ip4/127.0.0.1/tcp/1"]
    network(monkeypatch, lo=["127.0.0.1"], eth0=["192.0.2.5"])
    assert texts(ad.announced([Multiaddr("/ip4/0.0.0.0/tcp/1")])) == ["/ip4/192.0.2.5/tcp/1"]


def test_a_specific_address_stays_and_doubles_go(monkeypatch: pytest.MonkeyPatch) -> None:
    network(monkeypatch, eth0=[f"192.0.2.{i}" for i in range(1, 20)])
    one = Multiaddr("/ip4/127.0.0.1/tcp/9")
    assert texts(ad.announced([one, one])) == ["/ip4/127.0.0.1/tcp/9"]
    assert len(ad.announced([Multiaddr("/ip4/0.0.0.0/tcp/9")])) == ad.MAX_ADDRESSES
    both = ad.announced(ad.listen_addresses("0.0.0.0", 9, "dual"))
    assert [ad.transport_of(item) for item in both] == ["quic"] * 3 + ["tcp"] * 3


def test_one_port_for_both_transports() -> None:
    assert texts(ad.listen_addresses("127.0.0.1", 7, "dual")) == [
        "/ip4/127.0.0.1/udp/7/quic-v1",
        "/ip4/127.0.0.1/tcp/7",
    ]
    assert texts(ad.listen_addresses("::1", 7, "tcp")) == ["/ip6/::1/tcp/7"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/ip4/192.0.2.1/tcp/1", "tcp"),
        ("/ip4/192.0.2.1/udp/1/quic-v1", "quic"),
        ("/ip4/192.0.2.1/udp/1", None),
        ("/ip4/192.0.2.1/tcp/1/ws", None),
        ("/ip4/192.0.2.1/udp/1/quic-v1/webtransport", None),
        (f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit", None),
    ],
)
def test_transport_of(text: str, kind: str | None) -> None:
    assert ad.transport_of(text) == kind


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "/",
        "hello",
        "/ip4/999.1.1.1/tcp/1",
        "/ip4/192.0.2.1/tcp/0",
        "/ip4/192.0.2.1/tcp/70000",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/192.0.2.1/udp/1",
        "/ip4/192.0.2.1/tcp/1/ws",
        # No port where one is expected: int("tcp") once ended a node here.
        "/ip4/192.0.2.1/tls/tcp/5",
        "/ip4/192.0.2.1/http/tcp/80",
        "/ip4/192.0.2.1/udp/5/tcp/7",
        "/ip4/192.0.2.1/tcp/5/http-path/x",
        "/dns4/example.org/tcp/1",
        "/unix/tmp/tcp/1",
        f"/p2p/{PEER}",
        f"/ip4/192.0.2.1/tcp/1/p2p/{OTHER}",
        "/ip4/192.0.2.1/tcp/1/p2p",
        "/ip4/192.0.2.1/tcp/1\x1b[2J",
        "/ip4/１.2.3.4/tcp/1",
        "/ip4/192.0.2.1/tcp/" + "1" * 400,
        5,
        None,
        b"/ip4/192.0.2.1/tcp/1",
        ["/ip4/192.0.2.1/tcp/1"],
    ],
)
def test_junk_from_a_stranger_is_left_out(junk: object) -> None:
    good = "/ip4/192.0.2.7/tcp/4001"
    assert texts(ad.parse_addresses([junk, good], PEER)) == [good]


def test_a_named_peer_must_be_that_peer_and_is_cut_off() -> None:
    given = [f"/ip4/192.0.2.7/tcp/1/p2p/{PEER}", f"/ip4/192.0.2.8/udp/2/quic-v1/p2p/{PEER}"]
    assert texts(ad.parse_addresses(given, PEER)) == [
        "/ip4/192.0.2.7/tcp/1",
        "/ip4/192.0.2.8/udp/2/quic-v1",
    ]


def test_many_addresses_are_cut() -> None:
    many = [f"/ip4/192.0.2.7/tcp/{port}" for port in range(1, 1000)]
    assert len(ad.parse_addresses(many, PEER)) == ad.MAX_ADDRESSES
    junk_first = ["junk"] * (2 * ad.MAX_ADDRESSES) + many
    assert ad.parse_addresses(junk_first, PEER) == []


PARTS = [
    *("ip4", "ip6", "tcp", "udp", "quic-v1", "p2p", "tls", "http", "ws", "dns", "unix", "1.2.3.4"),
    *("::1", "1", "0", "65536", PEER, OTHER, "", "certhash", "p2p-circuit", "http-path", "ip6zone"),
]
PART = st.sampled_from(PARTS)


@given(
    st.lists(st.one_of(st.lists(PART, max_size=9).map("/".join), st.text(max_size=60)), max_size=4)
)
def test_parse_addresses_is_total(claims: list[str]) -> None:
    slashed = [f"/{item}" for item in claims]
    for address in ad.parse_addresses([*claims, *slashed], PEER):
        assert ad.transport_of(address) is not None
        assert "p2p" not in str(address).split("/")


@pytest.mark.parametrize(
    ("text", "address", "peer"),
    [
        ("/ip4/192.0.2.1/tcp/5", "/ip4/192.0.2.1/tcp/5", None),
        (f"/ip4/192.0.2.1/tcp/5/p2p/{PEER}", "/ip4/192.0.2.1/tcp/5", PEER),
        ("192.0.2.1:5", "/ip4/192.0.2.1/tcp/5", None),
        ("[::1]:5", "/ip6/::1/tcp/5", None),
        ("::1:5", "/ip6/::1/tcp/5", None),
        ("host.example:5", "/dns/host.example/tcp/5", None),
        ("/dns4/host.example/udp/5/quic-v1", "/dns4/host.example/udp/5/quic-v1", None),
    ],
)
def test_bootstrap_addresses(text: str, address: str, peer: str | None) -> None:
    found, peer_id = ad.parse_bootstrap(text)
    assert (str(found), peer_id) == (address, peer)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "host", "host:", "host:0", "host:99999", "host:x", "a b:80", "a/b:80", "%:80"),
        *("x" * 300 + ":80", "/", "/ip4/192.0.2.1", "/ip4/192.0.2.1/udp/5", "/ip4/nope/tcp/1"),
        *(f"/p2p/{PEER}", "/ip4/192.0.2.1/tcp/5/p2p/!", "/ip4/192.0.2.1/tcp/5/ws"),
    ],
)
def test_a_bootstrap_address_that_is_not_understood_is_explained(text: str) -> None:
    with pytest.raises(PlainError) as refused:
        ad.parse_bootstrap(text)
    assert refused.value.next_step
    assert "\n" not in refused.value.sentence
