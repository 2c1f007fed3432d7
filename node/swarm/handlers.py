"""What each command does on this node, for peers and for its own operator alike."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from node.clean import clean
from node.door import NodeDoor
from node.errors import PlainError
from node.settings import Settings
from node.shards.service import Shards
from node.swarm import commands as cmd
from node.swarm.announcements import Book
from node.swarm.own import capabilities
from node.swarm.serving import Handler
from node.swarm.torrents import Torrents

MAX_LISTED = 256


class Handlers:
    """The handlers of one node; `table()` maps command names to them."""

    def __init__(
        self,
        settings: Settings,
        door: NodeDoor,
        shards: Shards,
        book: Book,
        torrents: Torrents,
    ) -> None:
        self._settings = settings
        self._door = door
        self._shards = shards
        self._book = book
        self._torrents = torrents

    def table(self) -> dict[str, Handler]:
        """Command name -> `async (params, peer id) -> result`."""
        return {
            "GET_STATUS": self.get_status,
            "GET_CAPABILITIES": self.get_capabilities,
            "LIST_FILES": self.list_files,
            "SYNC_TORRENTS": self.sync_torrents,
            "LOAD_SHARD": self.load_shard,
            "UNLOAD_SHARD": self.unload_shard,
            "SWARM_READY": self.swarm_ready,
            "SHARD_LOADED": self.shard_loaded,
            "INFERENCE": self.inference,
        }

    async def get_status(self, params: cmd.NoParams, peer_id: str) -> dict[str, Any]:
        state = self._door.state
        node = state.node
        assert node is not None
        now = time.time()
        own = node.own_shards
        return {
            "peer_id": node.peer_id,
            "name": node.name,
            "role": node.role,
            "version": node.version,
            "cluster_name": node.cluster,
            "shard_id": own[0] if own else None,
            "shards": list(self._shards.loaded_ids),
            "local_shard_loaded": bool(self._shards.loaded_ids),
            "swarm_ready": state.ready,
            "discovered_shards": state.discovered,
            "expected_shards": node.total_shards,
            "is_complete": state.complete,
            "all_shards_loaded": state.complete,
            "missing_shards": list(state.missing_shards),
            "shard_statuses": {
                str(shard_id): {
                    "status": state.status_of(shard_id),
                    "why": state.why(shard_id, now),
                    "discovered": bool(shard.holders),
                    "shard_loaded": state.status_of(shard_id) != "OFFLINE",
                    "is_local": shard.local.phase == "loaded",
                }
                for shard_id, shard in list(state.shards.items())[:MAX_LISTED]
            },
            "uptime_s": round(now - node.started_at, 1),
            "capabilities": self._capabilities(),
        }

    def _own_id(self) -> str:
        node = self._door.state.node
        return node.peer_id if node is not None else ""

    def _capabilities(self) -> dict[str, Any]:
        found = capabilities(self._settings, bool(self._shards.loaded_ids))
        return dict(msgspec.to_builtins(found))

    async def get_capabilities(self, params: cmd.NoParams, peer_id: str) -> dict[str, Any]:
        loaded = self._shards.loaded_ids
        info = self._shards.info(loaded[0]) if loaded else None
        return {
            "shard_id": loaded[0] if loaded else None,
            "layer_start": info.layer_start if info else 0,
            "layer_end": info.layer_end if info else 0,
            "has_embeddings": bool(info and info.has_embeddings),
            "has_output": bool(info and info.has_output),
            "active_requests": 0,
            "capabilities": self._capabilities(),
        }

    async def list_files(self, params: cmd.NoParams, peer_id: str) -> dict[str, Any]:
        return {"files": self._torrents.sources.listing(all_known=False)}

    async def sync_torrents(self, params: cmd.SyncTorrents, peer_id: str) -> dict[str, Any]:
        self._torrents.syncing.asked(peer_id)
        files = self._torrents.sources.listing(all_known=True)
        return {"files": files, "total_files": len(files)}

    async def load_shard(self, params: cmd.LoadShard, peer_id: str) -> dict[str, Any]:
        shard_id = params.shard_id
        if self._settings.role == "rendezvous":
            raise PlainError(
                "This is a rendezvous node: it helps others to find each other and holds no shard.",
                "Send LOAD_SHARD to a node.",
            )
        already = self._shards.is_loaded(shard_id)
        own = peer_id == self._own_id()
        if self._shards.lacks_file(shard_id):
            if self._torrents.holding.fetches:
                return await self._download(shard_id, "operator" if own else peer_id)
            if not own:
                # The paths of this machine are for its own operator.
                raise PlainError(
                    f"This node has no file for shard {shard_id} and was told not to download.",
                    "Send LOAD_SHARD to a node that has it.",
                )
        info = await self._shards.load(shard_id)
        return {
            "shard_id": shard_id,
            "status": "already_loaded" if already else "loaded",
            "filename": clean(info.filename, 255),
            "layer_start": info.layer_start,
            "layer_end": info.layer_end,
        }

    async def _download(self, shard_id: int, requester: str) -> dict[str, Any]:
        job = await self._torrents.holding.fetch(shard_id, requester)
        return {
            "shard_id": shard_id,
            "status": "downloading",
            "info_hash": job.info_hash,
            "filename": clean(job.filename, 255),
            "size": job.size,
        }

    async def unload_shard(self, params: cmd.UnloadShard, peer_id: str) -> dict[str, Any]:
        await self._shards.unload(params.shard_id, "UNLOAD_SHARD")
        return {"shard_id": params.shard_id, "status": "unloaded"}

    async def swarm_ready(self, params: cmd.SwarmReady, peer_id: str) -> dict[str, Any]:
        state = self._door.state
        node = state.node
        assert node is not None
        return {
            "swarm_ready": state.ready,
            "discovered_shards": state.discovered,
            "expected_shards": node.total_shards,
            "missing_shards": list(state.missing_shards),
            "is_complete": state.complete,
            "peer_id": node.peer_id,
        }

    async def shard_loaded(self, params: cmd.ShardLoaded, peer_id: str) -> dict[str, Any]:
        # The peer's signed announcement is what is believed; this answers what is known of it.
        if params.cluster_name not in ("", self._settings.cluster):
            raise PlainError(
                f"This node belongs to the cluster '{self._settings.cluster}'.",
                "Start both nodes with the same --cluster.",
            )
        if params.status and self._was_asked(params.shard_id, peer_id):
            error = clean(params.error or "no reason given", 400)
            self._torrents.holding.remote_load_ended(
                peer_id, params.shard_id, "" if params.status == "loaded" else error
            )
        entry = self._book.get(params.shard_id, peer_id)
        return {
            "shard_id": params.shard_id,
            "updated": entry is not None and entry.record.shard_loaded,
            "all_shards_loaded": self._door.state.complete,
        }

    def _was_asked(self, shard_id: int, peer_id: str) -> bool:
        """Whether this node sent that peer a LOAD_SHARD which was answered "downloading"."""
        return any(
            row.command == "LOAD_SHARD"
            and row.direction == "out"
            and row.peer_id == peer_id
            and f"shard_id={shard_id} status=downloading" in row.summary
            for row in self._door.state.commands
        )

    async def inference(self, params: cmd.Inference, peer_id: str) -> dict[str, Any]:
        raise PlainError(
            "INFERENCE is not available in this version: nodes find each other and load shards,"
            " generation comes with a later one.",
            "See CHANGELOG.md for what this version does.",
        )
