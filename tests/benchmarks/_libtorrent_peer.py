"""A libtorrent peer in a process of its own: `seed FILE WAY PIECE` or `fetch WAY`.

Default settings, TCP only, this machine only. WAY is "plain" (no protocol encryption) or
"encrypted" (RC4 for the whole stream, forced on this side too). Torrents are v2.
"""

from __future__ import annotations

import base64
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import libtorrent as lt

from tests.benchmarks._children import Answer, forget_peak, make_durable, orders, peak, say

WAIT_MS = 20
DEADLINE_S = 300.0


def session(way: str) -> Any:
    """Default settings but for what would leave this machine or is not TCP."""
    kind = lt.alert.category_t
    settings = {
        "listen_interfaces": "127.0.0.1:0",
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "alert_mask": kind.status_notification | kind.storage_notification,
    }
    if way == "encrypted":
        forced = int(lt.enc_policy.forced)
        settings |= {"in_enc_policy": forced, "out_enc_policy": forced, "prefer_rc4": True}
        settings["allowed_enc_level"] = int(lt.enc_level.rc4)
    else:
        off = int(lt.enc_policy.disabled)
        settings |= {"in_enc_policy": off, "out_enc_policy": off}
    return lt.session(settings)


def parameters(torrent: bytes, folder: str) -> Any:
    """How to add a torrent so that it starts at once."""
    found = lt.add_torrent_params()
    found.ti = lt.torrent_info(lt.bdecode(torrent))
    found.save_path = folder
    found.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    return found


def seed(path: Path, way: str, piece_length: int) -> None:
    """Seed the file until standard input ends."""
    storage = lt.file_storage()
    storage.add_file(path.name, path.stat().st_size)
    making = lt.create_torrent(storage, piece_length, lt.create_torrent.v2_only)
    lt.set_piece_hashes(making, str(path.parent))
    torrent = lt.bencode(making.generate())
    host = session(way)
    wanted = parameters(torrent, str(path.parent))
    wanted.flags |= lt.torrent_flags.seed_mode
    host.add_torrent(wanted)
    say(port=host.listen_port(), torrent=base64.b64encode(torrent).decode())
    orders(lambda order: {})


def fetch(way: str) -> None:
    """Fetch what is ordered into `folder`; a file that is there already is overwritten."""
    host = session(way)
    say()

    def obey(order: Answer) -> Answer:
        wanted = parameters(base64.b64decode(order["torrent"]), order["folder"])
        # Without it a file of the right size would be hashed first.
        wanted.flags |= lt.torrent_flags.no_verify_files
        before = forget_peak()
        begin = time.perf_counter()
        handle = host.add_torrent(wanted)
        handle.connect_peer(("127.0.0.1", order["port"]))
        first = 0.0
        while not (status := handle.status()).is_seeding:
            now = time.perf_counter()
            first = first or (now - begin if status.num_pieces else 0.0)
            if now - begin > DEADLINE_S:
                raise TimeoutError(f"libtorrent has {status.progress:.0%} after {DEADLINE_S:.0f} s")
            host.wait_for_alert(WAIT_MS)
            host.pop_alerts()
        verified = time.perf_counter() - begin
        # All pieces are verified, but some are not written yet.
        handle.flush_cache()
        while not any(isinstance(item, lt.cache_flushed_alert) for item in host.pop_alerts()):
            host.wait_for_alert(WAIT_MS)
        make_durable(Path(order["folder"]) / order["name"])
        took = time.perf_counter() - begin
        grew = peak() - before
        host.remove_torrent(handle)
        # Its files are closed a moment later; the next order must not meet them.
        os.sync()
        return {"seconds": took, "verified_s": verified, "first_s": first, "grew": grew}

    orders(obey)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    if sys.argv[1] == "seed":
        seed(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        fetch(sys.argv[2])
