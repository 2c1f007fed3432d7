"""Settings: precedence, origins, limits, and the sentences for what is not acceptable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from node.errors import PlainError
from node.settings import SPECS, Settings, derived_name, load_settings


def load(home: Path, cwd: Path, flags: dict[str, object] | None = None, **env: str) -> Settings:
    return load_settings(flags, environ={"SWARMTUI_HOME": str(home), **env}, cwd=cwd)


def write_toml(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "swarmtui.toml"
    path.write_text(text)
    return path


def test_precedence_and_sources(own_home: Path, tmp_path: Path) -> None:
    file = write_toml(tmp_path, 'total-shards = 5\nport = 5\ncluster = "five"\nping_s = 2\n')
    found = load(
        own_home,
        tmp_path,
        {"port": "7"},
        LLAMA_TOTAL_SHARDS="6",
        SWARMTUI_PORT="6",
    )
    assert (found.cluster, found.total_shards, found.port) == ("five", 6, 7)
    assert found.ping_s == 2.0
    assert found.transport == "dual"
    assert found.sources["cluster"] == f"file {file}"
    assert found.sources["total_shards"] == "environment variable LLAMA_TOTAL_SHARDS"
    assert found.sources["port"] == "flag --port"
    assert "transport" not in found.sources
    assert found.describe()["port"] == {"value": 7, "source": "flag --port"}
    assert found.describe()["transport"] == {"value": "dual", "source": "default"}


def test_own_variable_is_stronger_than_the_origins(own_home: Path, tmp_path: Path) -> None:
    found = load(own_home, tmp_path, LLAMA_TOTAL_SHARDS="6", SWARMTUI_TOTAL_SHARDS="7")
    assert found.total_shards == 7


def test_working_folder_before_user_config(own_home: Path, tmp_path: Path) -> None:
    write_toml(own_home / "config", "port = 1")
    assert load(own_home, tmp_path).port == 1
    write_toml(tmp_path, "port = 2")
    assert load(own_home, tmp_path).port == 2
    named = tmp_path / "other.toml"
    named.write_text("port = 3")
    environ = {"SWARMTUI_HOME": str(own_home)}
    assert load_settings(environ=environ, cwd=tmp_path, config=Path("other.toml")).port == 3


def test_origin_variables(own_home: Path, tmp_path: Path) -> None:
    first, second = "/ip4/127.0.0.1/udp/51820/quic-v1", "/dns4/node.example/tcp/51820"
    found = load(
        own_home,
        tmp_path,
        LLAMA_SHARD_ID="0,1",
        BOOTSTRAP=f"{first}, {second}",
        LLAMA_SHARDS_DIR=str(tmp_path / "s"),
        LLAMA_THREADS="3",
        LLAMA_NO_MMAP="1",
        NODE_GPU_MEMORY_MB="24000",
        LLAMA_MODEL_NAME="llama-8b",
        LLAMA_TOTAL_LAYERS="32",
    )
    assert found.shards == (0, 1)
    assert found.bootstrap == (first, second)
    assert found.shards_dir == tmp_path / "s"
    assert (found.threads, found.no_mmap, found.gpu_memory_mb) == (3, True, 24000)
    assert found.model_name == "llama-8b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "x"),
        ("port", "1.5"),
        ("total_shards", "0"),
        ("total_shards", "1001"),
        ("shards", ("-1",)),
        ("shards", ("1000",)),
        ("cluster", ""),
        ("cluster", "Upper"),
        ("cluster", "a" * 65),
        ("name", "a/b"),
        ("name", ".."),
        ("name", "a" * 65),
        ("listen", "localhost"),
        ("transport", "udp"),
        ("bootstrap", ("127.0.0.1:70000",)),
        ("bootstrap", ("127.0.0.1",)),
        ("bootstrap", ("/ip4/127.0.0.1/tcp/0",)),
        ("bootstrap", ("/ip4/127.0.0.1/tcp/65536",)),
        ("bootstrap", ("/ip4/::1/tcp/1",)),
        ("bootstrap", ("/ip4/127.0.0.1",)),
        ("log_level", "loud"),
        ("threads", "1025"),
        ("shards_dir", "a\0b"),
    ],
)
def test_bad_values_are_named(own_home: Path, tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(PlainError) as caught:
        load(own_home, tmp_path, {name: value})
    assert name in caught.value.sentence
    assert "(from flag --" in caught.value.sentence
    assert caught.value.next_step.startswith("Allowed: ")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "3601", "soon"])
def test_bad_durations(own_home: Path, tmp_path: Path, value: str) -> None:
    with pytest.raises(PlainError) as caught:
        load(own_home, tmp_path, SWARMTUI_REQUERY_S=value)
    assert "environment variable SWARMTUI_REQUERY_S" in caught.value.sentence
    assert "from 1 to 3600" in caught.value.next_step


def test_bad_value_is_cleaned(own_home: Path, tmp_path: Path) -> None:
    with pytest.raises(PlainError) as caught:
        load(own_home, tmp_path, {"cluster": "\x1b[31mred\u202e" + "a" * 10_000})
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_shard_out_of_range_names_both_settings(own_home: Path, tmp_path: Path) -> None:
    with pytest.raises(PlainError) as caught:
        load(own_home, tmp_path, {"shards": ("4",)})
    assert "shards 0 to 3" in caught.value.sentence
    assert "--total-shards" in caught.value.next_step


def test_timings_that_contradict_each_other(own_home: Path, tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="silence_s"):
        load(own_home, tmp_path, SWARMTUI_PING_S="20")
    with pytest.raises(PlainError, match="announce_ttl_s"):
        load(own_home, tmp_path, SWARMTUI_REPUBLISH_S="300")


def test_unknown_key_names_the_nearest(own_home: Path, tmp_path: Path) -> None:
    write_toml(tmp_path, "total_shard = 4")
    with pytest.raises(PlainError) as caught:
        load(own_home, tmp_path)
    assert "'total_shard'" in caught.value.sentence
    assert "'total_shards'" in caught.value.next_step


def test_broken_and_missing_files(own_home: Path, tmp_path: Path) -> None:
    write_toml(tmp_path, "port = ")
    with pytest.raises(PlainError, match="not valid TOML"):
        load(own_home, tmp_path)
    with pytest.raises(PlainError, match="cannot be read"):
        load_settings(environ={"SWARMTUI_CONFIG": "/nowhere/x.toml"}, cwd=tmp_path)


def test_toml_types(own_home: Path, tmp_path: Path) -> None:
    write_toml(tmp_path, "shards = [0, 2]\nmdns = false\nno_ui = true\n")
    found = load(own_home, tmp_path)
    assert (found.shards, found.mdns, found.no_ui) == ((0, 2), False, True)
    write_toml(tmp_path, "mdns = 1")
    with pytest.raises(PlainError, match="mdns"):
        load(own_home, tmp_path)
    write_toml(tmp_path, "port = true")
    with pytest.raises(PlainError, match="port"):
        load(own_home, tmp_path)


def test_derived_names() -> None:
    assert derived_name("node", (0,)) == "shard-0"
    assert derived_name("node", (2, 0)) == "shard-0-2"
    assert derived_name("node", ()) == "observer"
    assert derived_name("rendezvous", (1,)) == "rendezvous"
    assert len(derived_name("node", tuple(range(1000)))) <= 64


def test_rendezvous(own_home: Path, tmp_path: Path) -> None:
    environ = {"SWARMTUI_HOME": str(own_home), "LLAMA_SHARD_ID": "1"}
    found = load_settings(role="rendezvous", environ=environ, cwd=tmp_path)
    assert (found.port, found.shards, found.name) == (51820, (), "rendezvous")
    chosen = load_settings({"port": "0"}, role="rendezvous", environ=environ, cwd=tmp_path)
    assert chosen.port == 0


def test_shards_dir_default(own_home: Path, tmp_path: Path) -> None:
    assert load(own_home, tmp_path).shards_dir == own_home / "data" / "shards"
    (tmp_path / "models_cache" / "shards").mkdir(parents=True)
    assert load(own_home, tmp_path).shards_dir == tmp_path / "models_cache" / "shards"


def test_paths_lie_below_the_nodes_name(own_home: Path, tmp_path: Path) -> None:
    found = load(own_home, tmp_path, {"name": "n1"})
    for path in (found.identity_path, found.peer_cache_path, found.journal_dir, found.log_path):
        assert path.is_relative_to(own_home)
        assert "n1" in path.relative_to(own_home).parts


def test_long_socket_path_is_hashed_and_short(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    first = load(deep, tmp_path, {"name": "a"})
    second = load(deep, tmp_path, {"name": "b"})
    assert len(os.fsencode(first.socket_path)) <= 104
    assert first.socket_path != second.socket_path
    short = load_settings(environ={"SWARMTUI_HOME": "/h"}, cwd=tmp_path)
    assert short.socket_path == Path("/h/run/observer/door.sock")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_no_text_breaks_a_setting(data: st.DataObject, tmp_path: Path) -> None:
    spec = data.draw(st.sampled_from(SPECS))
    raw = data.draw(
        st.text(max_size=50)
        | st.integers()
        | st.floats()
        | st.booleans()
        | st.none()
        | st.lists(st.text(max_size=9) | st.integers(), max_size=4)
    )
    try:
        spec.parse(raw, "test")
    except PlainError as error:
        assert spec.name in error.sentence


def test_a_node_holds_no_more_shards_than_others_will_believe(
    own_home: Path, tmp_path: Path
) -> None:
    flags = {"shards": tuple(str(item) for item in range(64)), "total_shards": "100"}
    assert len(load(own_home, tmp_path, flags).shards) == 64
    flags["shards"] += ("64",)
    with pytest.raises(PlainError, match="at most 64 shards; 65 were given") as caught:
        load(own_home, tmp_path, flags)
    assert "Start more nodes" in caught.value.next_step
