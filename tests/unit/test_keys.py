"""DHT keys: what is written is read back, everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from node.swarm import keys

CLUSTERS = st.from_regex(keys.CLUSTER_PATTERN, fullmatch=True)
SHARDS = st.integers(0, keys.MAX_SHARDS - 1)
PEER_IDS = st.text(
    "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ123456789", min_size=40, max_size=60
)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(CLUSTERS.filter(lambda name: name != "swarm-ready"), SHARDS, PEER_IDS, HASHES)
def test_round_trip(cluster: str, shard: int, peer: str, info_hash: str) -> None:
    assert keys.parse(keys.shard_key(cluster, shard)) == ("shard", cluster, str(shard), "")
    assert keys.parse(keys.holder_key(cluster, shard, peer)) == (
        "holder",
        cluster,
        str(shard),
        peer,
    )
    assert keys.parse(keys.torrent_key(cluster, info_hash)) == ("torrent", cluster, info_hash, "")
    assert keys.parse(keys.readiness_key(cluster)) == ("readiness", cluster, "", "")


def test_the_default_cluster_keeps_the_key_of_the_mission() -> None:
    assert keys.readiness_key("llama-cluster") == "/llama-cluster/swarm-ready"
    assert keys.shard_key("llama-cluster", 3) == "/llama-cluster/llama-cluster/shard/3"


PEER = "12D3KooW" + "a" * 44


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "llama-cluster/c/shard/1",
        "/other/c/shard/1",
        "/llama-cluster",
        "/llama-cluster/",
        "/llama-cluster/c",
        "/llama-cluster/c/",
        "/llama-cluster/C/shard/1",
        "/llama-cluster/../shard/1",
        "/llama-cluster/c\n/shard/1",
        "/llama-cluster/" + "c" * 65 + "/shard/1",
        "/llama-cluster/c/shard",
        "/llama-cluster/c/shard/",
        "/llama-cluster/c/shard/01",
        "/llama-cluster/c/shard/-1",
        "/llama-cluster/c/shard/1000",
        "/llama-cluster/c/shard/1e3",
        "/llama-cluster/c/shard/١",
        "/llama-cluster/c/shard/1/",
        "/llama-cluster/c/shard/1/short",
        f"/llama-cluster/c/shard/1/{PEER}/more",
        f"/llama-cluster/c/shard/1/{PEER}\n",
        f"/llama-cluster/c/shard/1/{PEER[:-1]}é",
        "/llama-cluster/c/torrent/xyz",
        "/llama-cluster/c/torrent/" + "A" * 64,
        "/llama-cluster/c/torrent/" + "a" * 64 + "/x",
        "/llama-cluster/c/unknown/1",
        "/llama-cluster/c/swarm-ready/x",
        "/llama-cluster/c/shard/1/" + "a" * 300,
    ],
)
def test_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"^key: "):
        keys.parse(key)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        keys.parse(text)
    except ValueError:
        return
    assert text.startswith("/llama-cluster/")
