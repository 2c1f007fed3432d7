"""What this node says of itself: its shards from the state, its machine's capabilities."""

from __future__ import annotations

import os

import psutil

from node.settings import Settings
from node.state import State
from node.swarm.announcing import OwnShard
from node.swarm.records import Capabilities

MIB = 1 << 20


def own_shards(state: State) -> list[OwnShard]:
    """This node's shards as they are to be announced.

    A file of a shard that nobody asked this node to hold is a torrent matter, not a holder.
    """
    roots = {item.shard_id: item.root for item in state.torrents.values() if item.local}
    result = []
    for shard in state.shards.values():
        local = shard.local
        phase = local.phase if local.wanted and local.phase != "failed" else "none"
        result.append(
            OwnShard(
                shard.shard_id,
                phase,
                layers=(local.layer_start, local.layer_end),
                model_name=local.model_name,
                size=local.size,
                progress=local.progress,
                root=roots.get(shard.shard_id, ""),
            )
        )
    return result


def capabilities(settings: Settings, loaded: bool) -> Capabilities:
    """Cores, memory and GPU of this machine; the GPU as the operator's setting tells."""
    memory = psutil.virtual_memory()
    return Capabilities(
        cpu_cores=os.cpu_count() or 1,
        memory_total_mb=memory.total // MIB,
        memory_available_mb=memory.available // MIB,
        gpu_available=settings.gpu_memory_mb > 0,
        gpu_memory_mb=settings.gpu_memory_mb,
        shard_loaded=loaded,
    )
