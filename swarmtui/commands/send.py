"""`swarmtui send`: a command or a message to peers, through a running node."""

from __future__ import annotations

import json
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any

import click

from node import jobs
from node.clean import clean
from node.errors import PlainError
from node.requests import SEND
from node.settings import load_settings
from swarmtui.commands.options import name_option

if TYPE_CHECKING:
    from node.state import State

ANSWER_TIMEOUT_S = 40.0
_OF_A_SHARD = ("LOAD_SHARD", "UNLOAD_SHARD", "SHARD_LOADED")
_OF_THE_SWARM = ("SYNC_TORRENTS", "SWARM_READY")


@click.command("send")
@click.argument("what", metavar="COMMAND")
@click.argument("text", required=False)
@click.option("--to", required=True, metavar="PEER", help="Peer id (its last 4 do), all or me.")
@click.option("--shard", type=click.IntRange(0, 999), help="Shard the command is about.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as one JSON object.")
@name_option
def command(
    what: str, text: str | None, to: str, shard: int | None, as_json: bool, name: str | None
) -> int:
    """Send COMMAND (GET_STATUS, LOAD_SHARD, …) or MESSAGE with TEXT, and print the answers.

    Ends with 0 when every answer is a success.
    """
    what = what.upper()
    door = jobs.open_door(load_settings(), name)
    try:
        request = {
            "command": what,
            "to": to,
            "text": text or "",
            "params": _params(what, text, shard, door.snapshot().state),
            "origin": "command line",
        }
        try:
            answer = door.request(SEND, request).result(ANSWER_TIMEOUT_S)
        except (TimeoutError, FutureTimeout):
            raise PlainError(
                f"No answer came within {ANSWER_TIMEOUT_S:.0f} s.",
                "`swarmtui status` shows which peers answer.",
            ) from None
    finally:
        door.close()
    answers = answer.get("answers", [])
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        for item in answers:
            _show(item)
    return 0 if answers and all(item.get("status") == "success" for item in answers) else 1


def _params(what: str, text: str | None, shard: int | None, state: State) -> dict[str, Any]:
    params: dict[str, Any] = {}
    if what in _OF_A_SHARD:
        if shard is None:
            raise PlainError(f"{what} is about one shard.", "Name it with --shard N.")
        params["shard_id"] = shard
    if what in _OF_THE_SWARM and state.node is not None:
        params["total_shards"] = state.node.total_shards
    if what == "INFERENCE":
        params["prompt"] = text or ""
        if shard is not None:
            params["shard_id"] = shard
    return params


def _show(item: dict[str, Any]) -> None:
    good = item.get("status") == "success"
    took = item.get("duration_ms")
    time_words = f" after {took:.0f} ms" if isinstance(took, int | float) else ""
    peer, status = clean(item.get("peer_id", ""), 128), clean(item.get("status", ""), 16)
    click.echo(f"{'✓' if good else '✗'} {peer}: {status}{time_words}")
    if item.get("error"):
        click.echo(f"    {clean(item['error'], 1000)}")
    result = item.get("result")
    for key, value in (result if isinstance(result, dict) else {}).items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"    {clean(key, 64)}: {clean(shown, 1000)}")
