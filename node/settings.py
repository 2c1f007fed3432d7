"""The settings in force: flag > environment > `swarmtui.toml` > default.

What a setting is stands in node.settings_table; here they are put together, completed and checked
against each other. `Settings.sources` remembers where each value came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from node.clean import clean
from node.errors import PlainError
from node.settings_sources import HOME_VARIABLE, base_folders, find_config, read_toml
from node.settings_table import BY_NAME, SPECS, UNSET, Settings
from node.settings_values import MAX_SHARDS_PER_NODE, Spec

__all__ = ["HOME_VARIABLE", "SPECS", "Settings", "Spec", "derived_name", "load_settings"]

RENDEZVOUS_PORT = 51820


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    role: Literal["node", "rendezvous"] = "node",
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    config: Path | None = None,
) -> Settings:
    """The settings in force.

    flags:  values from the command line by setting name; None means "not given".
    config: the file to read instead of swarmtui.toml of the working or the user config folder.

    Raises PlainError for a value that is not acceptable or a key that does not exist.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    values: dict[str, Any] = dict(base_folders(environ))
    sources: dict[str, str] = {}
    if environ.get(HOME_VARIABLE):
        sources = {name: f"environment variable {HOME_VARIABLE}" for name in values}
    given = {key: value for key, value in (flags or {}).items() if value not in (None, ())}

    def take(spec: Spec, raw: object, source: str) -> None:
        values[spec.name] = spec.parse(raw, source)
        sources[spec.name] = source

    early = _from_environment(environ)
    config_dir = early["config_dir"][0] if "config_dir" in early else values["config_dir"]
    file = find_config(config, environ, cwd, Path(config_dir))
    if file is not None:
        for name, raw in read_toml(file, BY_NAME).items():
            take(BY_NAME[name], raw, f"file {file}")
    for name, (raw, source) in early.items():
        take(BY_NAME[name], raw, source)
    for name, raw in given.items():
        spec = BY_NAME[name]
        take(spec, raw, f"flag {spec.option.flag}" if spec.option.flag else "command line")
    settings = Settings(**values, role=role, config_file=file, sources=sources)
    return _completed(settings, cwd)


def _completed(settings: Settings, cwd: Path) -> Settings:
    """Fill in what depends on other settings, and check those that bind each other."""
    if settings.role == "rendezvous":
        # LLAMA_SHARD_ID may be set for the nodes of this machine: it is not for this one.
        settings = replace(settings, shards=())
        if "port" not in settings.sources:
            settings = replace(settings, port=RENDEZVOUS_PORT)
    for shard in settings.shards:
        if shard >= settings.total_shards:
            source = settings.sources.get("shards", "default")
            last = settings.total_shards - 1
            raise PlainError(
                f"There is no shard {shard} (from {clean(source, 200)}): a model of "
                f"{settings.total_shards} shards has the shards 0 to {last}.",
                "Choose one of those, or set --total-shards to the number the model was cut into.",
            )
    if len(settings.shards) > MAX_SHARDS_PER_NODE:
        raise PlainError(
            f"One node holds at most {MAX_SHARDS_PER_NODE} shards; "
            f"{len(settings.shards)} were given.",
            "Start more nodes and give each of them a part, or cut the model into fewer shards.",
        )
    if settings.silence_s <= settings.ping_s:
        raise PlainError(
            f"silence_s ({settings.silence_s:g}) must be longer than ping_s "
            f"({settings.ping_s:g}), or every peer would look silent.",
            "Raise silence_s or lower ping_s.",
        )
    if settings.announce_ttl_s <= settings.republish_s:
        raise PlainError(
            f"announce_ttl_s ({settings.announce_ttl_s:g}) must be longer than republish_s "
            f"({settings.republish_s:g}), or announcements would lapse in between.",
            "Raise announce_ttl_s or lower republish_s.",
        )
    if not settings.name:
        settings = replace(settings, name=derived_name(settings.role, settings.shards))
    if settings.shards_dir == UNSET:
        local = cwd / "models_cache" / "shards"
        folder = local if local.is_dir() else settings.data_dir / "shards"
        settings = replace(settings, shards_dir=folder)
    absolute = {
        spec.name: cwd / getattr(settings, spec.name) for spec in SPECS if spec.kind is Path
    }
    return replace(settings, **absolute)


def derived_name(role: str, shards: tuple[int, ...]) -> str:
    """The name of a node that was given none: shard-0, shard-0-2, rendezvous, observer."""
    if role == "rendezvous":
        return "rendezvous"
    if not shards:
        return "observer"
    ordered = sorted(shards)
    name = "shard-" + "-".join(str(item) for item in ordered)
    return name if len(name) <= 64 else f"shards-{ordered[0]}-to-{ordered[-1]}-{len(ordered)}"


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found = {}
    for spec in SPECS:
        for variable in spec.variables:
            if environ.get(variable):
                found[spec.name] = (environ[variable], f"environment variable {variable}")
                break
    return found
