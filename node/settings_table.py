"""Every setting once: name, type, default, flag, environment variables, limits, help.

A field of `Settings` is the one declaration of a setting; click options, TOML keys, environment
variables and the README's table are derived from it (`SPECS`). `node.settings` fills them in.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

import msgspec

from node.settings_values import (
    Option,
    Spec,
    cluster_name,
    ip_literal,
    multiaddr,
    node_name,
    peer_id,
    pin,
)

__all__ = ["SPECS", "Settings", "Spec"]

# sun_path is 108 bytes on Linux and 104 on macOS, with the closing zero.
MAX_SOCKET_PATH = 100

UNSET = Path()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one node, checked. Durations (`_s`) are seconds, sizes as named."""

    shards: Annotated[
        tuple[int, ...],
        Option(
            flag="--shard",
            env=("LLAMA_SHARD_ID",),
            low=0,
            high=999,
            metavar="ID",
            help="Shard this node holds; repeat it for several. Without one it only observes.",
        ),
    ] = ()
    total_shards: Annotated[
        int,
        Option(
            flag="--total-shards",
            env=("LLAMA_TOTAL_SHARDS",),
            low=1,
            high=1000,
            metavar="N",
            help="How many shards the model was cut into.",
        ),
    ] = 4
    cluster: Annotated[
        str,
        Option(
            flag="--cluster",
            check=cluster_name,
            allowed="1 to 64 characters of a-z, 0-9, '-', '_' and '.'",
            metavar="NAME",
            help="Nodes of one cluster find each other.",
        ),
    ] = "llama-cluster"
    name: Annotated[
        str,
        Option(
            flag="--name",
            check=node_name,
            allowed="1 to 64 characters of letters, digits, '.', '_' and '-'",
            metavar="NAME",
            help="Name of this node on this machine: its identity, journal and socket live under "
            "it. Derived from the shards (shard-0) where it is not given.",
        ),
    ] = ""
    model_name: Annotated[
        str,
        Option(
            flag="--model-name",
            env=("LLAMA_MODEL_NAME",),
            metavar="NAME",
            help="Model to announce; by default the name in the shard file.",
        ),
    ] = ""
    shards_dir: Annotated[
        Path,
        Option(
            flag="--shards-dir",
            env=("LLAMA_SHARDS_DIR",),
            metavar="DIR",
            help="Folder with shard-N.gguf files; by default models_cache/shards under the working "
            "folder where it exists, else shards in the user data folder.",
        ),
    ] = UNSET
    threads: Annotated[
        int,
        Option(
            flag="--threads",
            env=("LLAMA_THREADS",),
            low=0,
            high=1024,
            metavar="N",
            help="Threads llama.cpp computes with; 0 lets it choose.",
        ),
    ] = 0
    no_mmap: Annotated[
        bool,
        Option(
            flag="--no-mmap",
            env=("LLAMA_NO_MMAP",),
            help="Read the weights into memory of its own instead of mapping the file.",
        ),
    ] = False
    gpu_memory_mb: Annotated[
        int,
        Option(
            env=("NODE_GPU_MEMORY_MB",),
            low=0,
            high=100_000_000,
            help="GPU memory to state in this node's capabilities, MB.",
        ),
    ] = 0

    bootstrap: Annotated[
        tuple[str, ...],
        Option(
            flag="--bootstrap",
            env=("BOOTSTRAP",),
            check=multiaddr,
            allowed="a multiaddr such as /ip4/192.0.2.7/tcp/51820",
            metavar="MULTIADDR",
            group="network",
            help="Node to join the swarm through; repeat it for several.",
        ),
    ] = ()
    transport: Annotated[
        Literal["dual", "quic", "tcp"],
        Option(
            flag="--transport",
            group="network",
            help="QUIC and TCP (dual), or only one of them.",
        ),
    ] = "dual"
    stock_transport: Annotated[
        bool,
        Option(
            flag="--stock-transport",
            group="network",
            help="py-libp2p's own Noise and Yamux instead of the faster ones.",
        ),
    ] = False
    listen: Annotated[
        str,
        Option(
            flag="--listen",
            check=ip_literal,
            allowed="an IP address such as 0.0.0.0, 127.0.0.1 or ::",
            metavar="IP",
            group="network",
            help="Address of this machine to accept connections at.",
        ),
    ] = "0.0.0.0"
    port: Annotated[
        int,
        Option(
            flag="--port",
            low=0,
            high=65535,
            metavar="PORT",
            group="network",
            help="Port for TCP and UDP; 0 takes a free one (a rendezvous node: 51820).",
        ),
    ] = 0
    mdns: Annotated[
        bool,
        Option(
            flag="--mdns/--no-mdns",
            group="network",
            help="Find nodes on the local network without a bootstrap.",
        ),
    ] = True

    fetch: Annotated[
        bool,
        Option(
            flag="--fetch/--no-fetch",
            group="transfer",
            help="Download the shards this node is to hold and has no file of.",
        ),
    ] = True
    max_up: Annotated[
        float,
        Option(
            flag="--max-up",
            low=0,
            high=1_000_000,
            metavar="MB/S",
            group="transfer",
            help="Most megabytes per second to send; 0 sets no limit.",
        ),
    ] = 0.0
    max_down: Annotated[
        float,
        Option(
            flag="--max-down",
            low=0,
            high=1_000_000,
            metavar="MB/S",
            group="transfer",
            help="Most megabytes per second to receive; 0 sets no limit.",
        ),
    ] = 0.0
    pins: Annotated[
        tuple[str, ...],
        Option(
            flag="--pin",
            check=pin,
            allowed="a file name, '@' and a root of 64 hex digits",
            metavar="NAME@ROOT",
            group="transfer",
            help="The one root that is right for a file; repeat it for several.",
        ),
    ] = ()
    trusted: Annotated[
        tuple[str, ...],
        Option(
            flag="--trust",
            check=peer_id,
            allowed="a peer id",
            metavar="PEER",
            group="transfer",
            help="Publisher whose signed manifests decide between contents; repeat it for several.",
        ),
    ] = ()

    no_ui: Annotated[
        bool,
        Option(flag="--no-ui", group="output", help="No console: log lines on standard output."),
    ] = False
    log_format: Annotated[
        Literal["text", "json"],
        Option(flag="--log-format", group="output", help="Log lines as text or one JSON object."),
    ] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Option(flag="--log-level", group="output", help="Least important line that is written."),
    ] = "info"
    theme: Annotated[
        str,
        Option(
            flag="--theme",
            check=node_name,
            allowed="the name of a theme file without .toml",
            metavar="NAME",
            group="output",
            help="Colours of the console: a theme's name.",
        ),
    ] = "night"

    requery_s: Annotated[
        float,
        Option(low=1, high=3600, group="timing", help="Between two DHT queries for the shards."),
    ] = 12.0
    republish_s: Annotated[
        float,
        Option(low=5, high=86400, group="timing", help="Between two announcements of a shard."),
    ] = 120.0
    announce_ttl_s: Annotated[
        float,
        Option(low=10, high=86400, group="timing", help="An announcement counts this long."),
    ] = 300.0
    ping_s: Annotated[
        float, Option(low=0.2, high=600, group="timing", help="Between two pings of a peer.")
    ] = 5.0
    silence_s: Annotated[
        float,
        Option(low=1, high=3600, group="timing", help="A peer silent this long is OFFLINE."),
    ] = 15.0
    report_s: Annotated[
        float,
        Option(low=1, high=86400, group="timing", help="Between two [STATUS] reports in the log."),
    ] = 30.0
    redial_s: Annotated[
        float,
        Option(low=0.2, high=3600, group="timing", help="Before a lost bootstrap is redialled."),
    ] = 5.0
    query_timeout_s: Annotated[
        float,
        Option(low=0.1, high=120, group="timing", help="A peer's time to answer a DHT query."),
    ] = 2.0

    data_dir: Annotated[
        Path, Option(group="folders", help="Identities, remembered peers, shards.")
    ] = UNSET
    state_dir: Annotated[Path, Option(group="folders", help="Journals, logs, crash notes.")] = UNSET
    runtime_dir: Annotated[Path, Option(group="folders", help="Sockets of running nodes.")] = UNSET
    config_dir: Annotated[Path, Option(group="folders", help="swarmtui.toml and themes.")] = UNSET

    role: Literal["node", "rendezvous"] = "node"
    config_file: Path | None = None
    sources: dict[str, str] = {}

    # ------------------------------------------------------------ where things lie

    @property
    def node_data_dir(self) -> Path:
        """This node's own data folder."""
        return self.data_dir / self.name

    @property
    def node_state_dir(self) -> Path:
        """This node's own folder for journals and logs."""
        return self.state_dir / self.name

    @property
    def identity_path(self) -> Path:
        return self.node_data_dir / "identity.key"

    @property
    def peer_cache_path(self) -> Path:
        return self.node_data_dir / "peers.json"

    @property
    def roots_path(self) -> Path:
        """Which root was accepted for which file."""
        return self.node_data_dir / "roots.json"

    @property
    def hashes_dir(self) -> Path:
        """Hashes of files of this machine, shared by its nodes."""
        return self.data_dir / "hashes"

    @property
    def journal_dir(self) -> Path:
        return self.node_state_dir / "journal"

    @property
    def log_path(self) -> Path:
        return self.node_state_dir / "node.log"

    @property
    def crash_dir(self) -> Path:
        return self.state_dir / "crashes"

    @property
    def socket_path(self) -> Path:
        """The door's Unix socket."""
        return self.socket_path_of(self.name)

    def socket_path_of(self, name: str) -> Path:
        """The socket of the node `name`; a hashed one in a private folder where it is too long."""
        path = self.runtime_dir / name / "door.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:24]
        return Path(tempfile.gettempdir()) / f"swarmtui-{os.getuid()}" / f"{digest}.sock"

    def describe(self) -> dict[str, dict[str, object]]:
        """Every setting with its value and where it came from, ready for JSON."""
        return {
            spec.name: {
                "value": _plain(getattr(self, spec.name)),
                "source": self.sources.get(spec.name, "default"),
            }
            for spec in SPECS
        }


def _specs() -> tuple[Spec, ...]:
    hints = get_type_hints(Settings, include_extras=True)
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    rows = []
    for name, hint in hints.items():
        options = [item for item in get_args(hint)[1:] if isinstance(item, Option)]
        if options:
            kind = get_args(hint)[0]
            rows.append(Spec(name=name, kind=kind, default=defaults[name], option=options[0]))
    return tuple(rows)


SPECS: tuple[Spec, ...] = _specs()
BY_NAME = {spec.name: spec for spec in SPECS}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
