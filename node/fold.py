"""The state after an event: `fold` looks the event's type up in the table of folds."""

from __future__ import annotations

from msgspec.structs import replace

from node import events as ev
from node.folding import peers, shards, torrents, traffic
from node.folding.registry import FOLDS
from node.state import State

__all__ = ["fold", "peers", "shards", "torrents", "traffic"]


def fold(state: State, event: ev.Event) -> State:
    """The state after `event`; the same state object is never changed."""
    change = FOLDS.get(type(event))
    after = change(state, event) if change is not None else state
    return replace(after, updated_at=max(event.at, state.updated_at))
