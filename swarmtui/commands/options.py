"""Command line options derived from the settings table: nothing is declared twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from node.settings import SPECS, Settings, Spec, load_settings

F = TypeVar("F", bound=Callable[..., Any])

_NOT_RENDEZVOUS = frozenset(
    {"shards", "shards_dir", "model_name", "threads", "no_mmap", "theme"}
)

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Settings file to read instead of swarmtui.toml.",
)
name_option = click.option(
    "--name",
    metavar="NAME",
    help="Node to talk to; needed where several run on this machine.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def node_options(role: Literal["node", "rendezvous"]) -> Callable[[F], F]:
    """Give a command every flag of the settings table that its role uses, and --config."""
    chosen = [
        spec
        for spec in SPECS
        if spec.option.flag and not (role == "rendezvous" and spec.name in _NOT_RENDEZVOUS)
    ]

    def decorate(command: F) -> F:
        command = config_option(command)
        for spec in reversed(chosen):
            command = _option(spec, role)(command)
        return command

    return decorate


def settings_from(
    options: dict[str, Any], role: Literal["node", "rendezvous"] = "node"
) -> Settings:
    """The settings in force, from a command's options (config and table flags)."""
    flags = dict(options)
    config = flags.pop("config", None)
    return load_settings(flags, role=role, config=config)


def help_of(spec: Spec, role: str = "node") -> str:
    """The help text of a setting with its environment variables and default."""
    text = spec.option.help
    if spec.choices:
        text += f" One of {spec.allowed}."
    variables = ", ".join(spec.option.env)
    notes = []
    default = "51820" if role == "rendezvous" and spec.name == "port" else default_of(spec)
    if default:
        notes.append(f"default {default}")
    if variables:
        notes.append(variables)
    return f"{text} [{'; '.join(notes)}]" if notes else text


def default_of(spec: Spec) -> str:
    """The default as text; empty where there is none or it is derived."""
    default = spec.default
    if isinstance(default, bool):
        return "" if spec.name in ("no_ui", "no_mmap") else ("on" if default else "off")
    if default in ((), "", Path()):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def _option(spec: Spec, role: str) -> Callable[[F], F]:
    # Values stay text here: node.settings reads and checks them, with one wording for all sources.
    common: dict[str, Any] = {"help": help_of(spec, role), "default": None}
    # A rendezvous node has no console of its own: the flag is taken, not advertised.
    common["hidden"] = role == "rendezvous" and spec.name == "no_ui"
    if spec.kind is bool:
        if "/" not in spec.option.flag:
            common |= {"is_flag": True, "flag_value": True, "type": bool}
    else:
        metavar = spec.option.metavar or "|".join(spec.choices) or "VALUE"
        common |= {"type": str, "metavar": metavar, "multiple": spec.many}
    return click.option(spec.option.flag, spec.name, **common)


def given(options: Iterable[object]) -> bool:
    """Whether any option has a value."""
    return any(value not in (None, ()) for value in options)


def settings_table() -> str:
    """The README's table of settings, in Markdown."""
    rows = ["| key | flag | environment | default | meaning |", "|---|---|---|---|---|"]
    for spec in SPECS:
        flag = f"`{spec.option.flag}`" if spec.option.flag else ""
        variables = ", ".join(f"`{item}`" for item in spec.option.env)
        limits = f" ({spec.allowed})" if spec.item in (int, float) or spec.choices else ""
        rows.append(
            f"| `{spec.name}` | {flag} | {variables} | {default_of(spec)} "
            f"| {spec.option.help}{limits} |"
        )
    return "\n".join(rows)
