"""What can be asked of a node through its door: the names and their params, in one table.

| name     | params                                   | answer                                    |
|----------|------------------------------------------|-------------------------------------------|
| status   | {}                                       | the status report (node.report)           |
| send     | {command, to, params?, text?, origin?}   | {"answers": [{peer_id, status, ...}]}     |
| load     | {shard_id}                               | what LOAD_SHARD on this node answers      |
| unload   | {shard_id}                               | what UNLOAD_SHARD on this node answers    |
| settings | {}                                       | settings without secrets, where each came |
| stop     | {reason?}                                | {} and the node leaves the swarm          |

`to` is a peer id (a unique beginning or ending of at least four characters is enough), "me" or
"all". `command` is one of node.swarm.commands, or MESSAGE with `text`. `origin` says which hand
sent it (console, command line), for the log.
"""

from __future__ import annotations

from typing import Final

STATUS: Final = "status"
SEND: Final = "send"
LOAD: Final = "load"
UNLOAD: Final = "unload"
SETTINGS: Final = "settings"
STOP: Final = "stop"

NAMES: Final = (STATUS, SEND, LOAD, UNLOAD, SETTINGS, STOP)
