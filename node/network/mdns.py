"""Peers on the same LAN without any bootstrap: mDNS as libp2p specifies it.

py-libp2p's own announcer advertises 0.0.0.0; this uses the same library (zeroconf) and service
type with the addresses others can really dial, plus the cluster's name, so that clusters on one
LAN do not mix. Zeroconf runs in its own threads; what it finds is handed to the trio loop.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from node.shielding import grace

SERVICE = "_p2p._udp.local."
LOOKUP_MS = 3000
MAX_TEXTS = 12

Found = Callable[[str, list[str]], None]


def _properties(peer_id: str, addresses: list[str], cluster: str) -> dict[str, str]:
    texts = {f"dnsaddr{index or ''}": item for index, item in enumerate(addresses[:MAX_TEXTS])}
    return {"cluster": cluster, **texts}


def read_properties(properties: dict[bytes, bytes | None]) -> tuple[str, str, list[str]]:
    """The cluster, the peer id and the addresses of an announced service; empty when malformed."""
    cluster, peer_id, addresses = "", "", []
    for key, value in list(properties.items())[: MAX_TEXTS * 2]:
        text = (value or b"")[:256].decode("utf-8", "replace")
        if key == b"cluster":
            cluster = text
        elif key.startswith(b"dnsaddr") and "/p2p/" in text:
            peer_id = text.rpartition("/p2p/")[2]
            addresses.append(text)
    return cluster, peer_id, addresses


@asynccontextmanager
async def mdns(
    peer_id: str, addresses: list[str], cluster: str, found: Found
) -> AsyncIterator[None]:
    """Announce this node and report others of the cluster until the block ends.

    `found(peer_id, addresses)` is called in the trio loop. OSError when there is no multicast.
    """
    token = trio.lowlevel.current_trio_token()
    hosts = sorted({item.split("/")[2] for item in addresses if item.startswith("/ip4/")})
    zeroconf = await trio.to_thread.run_sync(
        lambda: Zeroconf(interfaces=hosts or ["127.0.0.1"], ip_version=IPVersion.V4Only)
    )
    name = f"{secrets.token_hex(16)}.{SERVICE}"
    service = ServiceInfo(
        SERVICE,
        name,
        port=int(addresses[0].split("/")[4]) if addresses else 0,
        properties=_properties(peer_id, addresses, cluster),
        server=f"{name.split('.')[0]}.local.",
        addresses=[socket.inet_aton(item) for item in hosts],
    )

    def changed(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed or name == service.name:
            return
        info = zeroconf.get_service_info(service_type, name, timeout=LOOKUP_MS)
        if info is None:
            return
        their_cluster, their_id, texts = read_properties(dict(info.properties))
        if their_cluster == cluster and their_id and their_id != peer_id:
            try:
                token.run_sync_soon(found, their_id, texts)
            except trio.RunFinishedError:
                return

    browser = await trio.to_thread.run_sync(
        lambda: ServiceBrowser(zeroconf, SERVICE, handlers=[changed])
    )
    try:
        await trio.to_thread.run_sync(lambda: zeroconf.register_service(service, strict=False))
        yield
    finally:
        with grace(1.0):
            await trio.to_thread.run_sync(browser.cancel)
            await trio.to_thread.run_sync(zeroconf.close)
