"""Multiaddrs: which to listen on, which to tell others, and how to read them from strangers."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import psutil
from multiaddr import Multiaddr

from node.errors import PlainError
from node.events import Transport

MAX_ADDRESS_CHARS = 256
MAX_ADDRESSES = 6


def transport_of(address: Multiaddr | str) -> Transport | None:
    """ "quic" or "tcp" for an address this node can dial, else None."""
    text = str(address)
    if any(part in text for part in ("/ws", "/wss", "/webtransport", "/p2p-circuit", "/webrtc")):
        return None
    if "/quic-v1" in text:
        return "quic"
    if "/tcp/" in text:
        return "tcp"
    return None


def listen_addresses(listen: str, port: int, transport: str) -> list[Multiaddr]:
    """The multiaddrs to listen on: QUIC and TCP on the same port number (0: any free ones)."""
    family = "ip6" if ":" in listen else "ip4"
    addresses = []
    if transport in ("dual", "quic"):
        addresses.append(Multiaddr(f"/{family}/{listen}/udp/{port}/quic-v1"))
    if transport in ("dual", "tcp"):
        addresses.append(Multiaddr(f"/{family}/{listen}/tcp/{port}"))
    return addresses


def interface_addresses(family: str) -> list[str]:
    """This machine's addresses of `family` ("ip4"/"ip6"): real interfaces, loopback if alone."""
    kind = socket.AF_INET if family == "ip4" else socket.AF_INET6
    real: list[str] = []
    loopback: list[str] = []
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    for name, entries in psutil.net_if_addrs().items():
        if name not in up:
            continue
        for entry in entries:
            if entry.family != kind:
                continue
            address = entry.address.split("%")[0]
            parsed = ipaddress.ip_address(address)
            if parsed.is_link_local:
                continue
            (loopback if parsed.is_loopback else real).append(address)
    return real or loopback


def announced(candidates: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Replace unspecified listen addresses by the machine's own; what others may dial.

    QUIC comes first: the first of them is what an operator is given to join with.
    """
    result: list[Multiaddr] = []
    for candidate in candidates:
        text = str(candidate)
        parts = text.split("/")
        if len(parts) > 2 and parts[2] in ("0.0.0.0", "::"):
            for address in interface_addresses(parts[1]):
                result.append(Multiaddr("/".join(["", parts[1], address, *parts[3:]])))
        else:
            result.append(candidate)
    unique = {str(item): item for item in result}.values()
    quic = [item for item in unique if transport_of(item) == "quic"]
    rest = [item for item in unique if transport_of(item) != "quic"]
    # On a machine of many interfaces neither transport may push the other out.
    half = MAX_ADDRESSES // 2
    return (
        quic[: max(half, MAX_ADDRESSES - len(rest))] + rest[: max(half, MAX_ADDRESSES - len(quic))]
    )


def parse_addresses(texts: Sequence[object], peer_id: str) -> list[Multiaddr]:
    """Read addresses a stranger gave for `peer_id`: what is malformed or undialable is left out.

    The `/p2p/` part must be absent or name that peer. At most MAX_ADDRESSES are kept.
    """
    result: list[Multiaddr] = []
    for text in texts[: MAX_ADDRESSES * 2]:
        if not isinstance(text, str) or len(text) > MAX_ADDRESS_CHARS or not text.isascii():
            continue
        try:
            address = Multiaddr(text)
            parts = str(address).split("/")
            if "p2p" in parts:
                index = parts.index("p2p")
                if parts[index + 1 : index + 2] != [peer_id]:
                    continue
                address = Multiaddr("/".join(parts[:index]))
            if _dialable(address):
                result.append(address)
        except Exception:
            continue  # the parser raises many things on a stranger's text
    return result[:MAX_ADDRESSES]


def _dialable(address: Multiaddr) -> bool:
    parts = str(address).split("/")
    kind = transport_of(address)
    # Exactly /ip4|ip6/<host>/tcp/<port> or /…/udp/<port>/quic-v1[/certhash/…]: nothing between.
    layers = ["tcp"] if kind == "tcp" else ["udp", "quic-v1"]
    if kind is None or parts[1] not in ("ip4", "ip6") or parts[3:6:2] != layers:
        return False
    host = ipaddress.ip_address(parts[2])
    return not (host.is_unspecified or host.is_multicast) and 0 < int(parts[4]) < 65536


def parse_bootstrap(text: str) -> tuple[Multiaddr, str | None]:
    """A bootstrap address from the operator: the address and, where given, the peer id.

    `/ip4|ip6|dns4|dns6|dns/<host>/tcp|udp/<port>[/quic-v1][/p2p/<id>]`, or `host:port` (QUIC and
    TCP are both tried). Raises PlainError on anything else.
    """
    mend = "Write it like /ip4/192.168.1.20/udp/51820/quic-v1 or 192.168.1.20:51820."
    if not text.startswith("/"):
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise PlainError(f"The bootstrap address '{text}' is not understood.", mend)
        host = host.strip("[]")
        try:
            family = f"ip{ipaddress.ip_address(host).version}"
        except ValueError:
            family = "dns"
        try:
            return Multiaddr(f"/{family}/{host}/tcp/{port}"), None
        except ValueError as error:
            raise PlainError(f"The bootstrap address '{text}' is not understood.", mend) from error
    try:
        address = Multiaddr(text)
        parts = str(address).split("/")
    except Exception as error:
        raise PlainError(f"The bootstrap address '{text}' is not understood.", mend) from error
    peer_id = None
    if "p2p" in parts:
        index = parts.index("p2p")
        peer_id = parts[index + 1]
        address = Multiaddr("/".join(parts[:index]))
    if transport_of(address) is None:
        raise PlainError(
            f"The bootstrap address '{text}' is neither QUIC nor TCP.",
            mend,
        )
    return address, peer_id
