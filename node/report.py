"""The status report: what a node sees, as JSON-ready values and as text."""

from __future__ import annotations

from typing import Any

import msgspec

from node.clean import clean, short_id
from node.state import Bootstrap, Peer, Shard, State, Torrent


def status_report_dict(state: State, now: float) -> dict[str, Any]:
    """What the node sees at `now` (unix seconds), for `status --json` and GET_STATUS.

    Sizes are bytes, layers [start, end), durations as named. `holders` are peer ids with the
    shard loaded that answer, this node's own first; before the node started everything is empty.
    """
    node = state.node
    shards = {str(i): _shard(state, i, now) for i in state.shard_ids}
    return {
        "peer_id": node.peer_id if node else "",
        "name": node.name if node else "",
        "role": node.role if node else "node",
        "cluster": node.cluster if node else "",
        "model_name": _model(state),
        "version": node.version if node else "",
        "uptime_s": round(max(now - node.started_at, 0.0), 1) if node else 0.0,
        "own_shards": list(node.own_shards) if node else [],
        "ready": state.ready,
        "complete": state.complete,
        "missing_shards": list(state.missing_shards),
        "discovered": state.discovered,
        "expected_shards": node.total_shards if node else 0,
        "shards": shards,
        "torrents": [_torrent(item) for item in state.torrents.values()],
        "peers": [_peer(state, peer, now) for peer in _ordered(state)],
        "bootstraps": [_bootstrap(item) for item in state.bootstraps.values()],
        "addresses": list(node.addresses) if node else [],
        "join_command": node.join_command if node else "",
        "routing_size": state.routing_size,
        "counters": msgspec.to_builtins(state.counters),
    }


def render(report: dict[str, Any]) -> str:
    """The report as lines for a person. Every text in it is cleaned again."""
    lines = [
        f"{clean(report['name'], 64)}  {clean(report['peer_id'], 128)}",
        f"cluster {clean(report['cluster'], 64)}, model {clean(report['model_name'], 80) or '-'}, "
        f"up {_duration(report['uptime_s'])}, swarmtui {clean(report['version'], 32)}",
        f"Discovered Shards: {report['discovered']}   "
        f"Pipeline Complete: {_yes(report['complete'])}   Swarm Ready: {_yes(report['ready'])}",
        "",
        "Shards",
    ]
    marks = {"LOCAL": "★", "ONLINE": "✓", "OFFLINE": "✗"}
    for number, shard in report["shards"].items():
        layers = shard["layers"]
        where = f"layers {layers[0]}-{layers[1]}" if layers else ""
        status = shard["status"]
        lines.append(
            f"  {clean(number, 8):>4} {marks.get(status, '?')} {clean(status, 8):<8}"
            f"{clean(shard['why'], 60):<22}{where:<16}"
            f"{' '.join(short_id(item) for item in shard['holders'][:6])}".rstrip()
        )
    lines += _files(report["torrents"])
    lines += ["", f"Peers ({len(report['peers'])})"]
    for peer in report["peers"]:
        rtt = "" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms"
        lines.append(
            f"  {short_id(peer['peer_id']):<10} {clean(peer['status'], 20):<14}"
            f"{'+'.join(clean(item, 8) for item in peer['transports']):<10}{rtt:>10}  "
            f"{clean(peer['agent'], 40)}".rstrip()
        )
    if report["bootstraps"]:
        lines += ["", "Bootstrap nodes"]
    for item in report["bootstraps"]:
        state = "connected" if item["connected"] else f"not connected: {clean(item['reason'])}"
        lines.append(f"  {clean(item['address'], 200)}  {state}")
    if report["addresses"]:
        lines += ["", "Listening on", *(f"  {clean(a, 200)}" for a in report["addresses"])]
    if report["join_command"] and not report["peers"]:
        lines += ["", "Alone. The next node joins with:", f"  {clean(report['join_command'], 600)}"]
    return "\n".join(lines)


def _files(torrents: list[dict[str, Any]]) -> list[str]:
    """What is on its way, and one line for the rest."""
    here = sum(item["local"] for item in torrents)
    lines = ["", f"Files ({here} here, {len(torrents)} known)"] if torrents else []
    for item in torrents:
        if item["phase"] in ("", "seeding", "done"):
            continue
        share = item["done"] / item["size"] if item["size"] else 0.0
        text = f"  {clean(item['filename'], 60):<24}{clean(item['phase'], 12):<12}{share:>5.0%}"
        if item["rate_down"]:
            text += f"  {item['rate_down'] / 1e6:.1f} MB/s from {item['sources']}"
        lines.append(f"{text}  {clean(item['reason'], 200)}".rstrip())
    return lines


def _torrent(item: Torrent) -> dict[str, Any]:
    """A file; sizes in bytes, rates in bytes per second, `sources`: those that send now."""
    return {
        "info_hash": "" if item.info_hash.startswith("?") else item.info_hash,
        "filename": item.filename,
        "size": item.size,
        "shard_id": item.shard_id,
        "root": item.root,
        "phase": item.phase,
        "reason": item.reason,
        "local": item.local,
        "peers": list(item.peers),
        "done": item.done,
        "rate_down": item.rate_down,
        "rate_up": item.rate_up,
        "uploaded": item.uploaded,
        "sources": sum(row.state in ("active", "idle") for row in item.sources),
    }


def _shard(state: State, shard_id: int, now: float) -> dict[str, Any]:
    shard = state.shards.get(shard_id) or Shard(shard_id=shard_id)
    local = shard.local
    answering = [item for item in shard.holders.values() if state.holder_answers(item)]
    holders = sorted(item.peer_id for item in answering)
    if local.phase == "loaded" and state.node is not None:
        holders.insert(0, state.node.peer_id)
    layers, size = [local.layer_start, local.layer_end], local.size
    if local.layer_end <= local.layer_start and shard.holders:
        known = max(shard.holders.values(), key=lambda item: item.updated_at)
        layers, size = [known.layer_start, known.layer_end], known.size
    return {
        "status": state.status_of(shard_id),
        "why": state.why(shard_id, now),
        "phase": local.phase,
        "holders": holders,
        "announced_by": sorted(shard.holders),
        "layers": layers if layers[1] > layers[0] else [],
        "size": size,
    }


def _ordered(state: State) -> list[Peer]:
    return sorted(state.peers.values(), key=lambda item: (not item.answering, item.peer_id))


def _peer(state: State, peer: Peer, now: float) -> dict[str, Any]:
    if peer.quarantined_until > now:
        status = "quarantined"
    elif peer.silent:
        status = "silent"
    elif peer.answering:
        status = "answering"
    else:
        status = "connected" if peer.connected else "known"
    return {
        "peer_id": peer.peer_id,
        "status": status,
        "transports": list(peer.transports),
        "rtt_ms": None if peer.rtt_ms is None else round(peer.rtt_ms, 2),
        "heard_s_ago": round(max(now - peer.heard_at, 0.0), 1) if peer.heard_at else None,
        "agent": peer.agent,
        "addresses": list(peer.addresses),
        "bootstrap": peer.bootstrap,
        "shards": sorted(i for i, item in state.shards.items() if peer.peer_id in item.holders),
        "note": peer.note,
    }


def _bootstrap(item: Bootstrap) -> dict[str, Any]:
    return {
        "address": item.address,
        "peer_id": item.peer_id,
        "connected": item.connected,
        "reason": item.reason,
    }


def _model(state: State) -> str:
    """The model's name: the setting's, else the shard file's, else what holders announce."""
    if state.node is not None and state.node.model_name:
        return state.node.model_name
    for shard in state.shards.values():
        if shard.local.model_name:
            return shard.local.model_name
    for shard in state.shards.values():
        for holder in shard.holders.values():
            if holder.model_name:
                return holder.model_name
    return ""


def _yes(value: bool) -> str:
    return "✓ YES" if value else "✗ NO"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
