"""What can be asked of a node through its door: the names and their params, in one table.

| name     | params                                   | answer                                    |
|----------|------------------------------------------|-------------------------------------------|
| status   | {}                                       | the status report (node.report)           |
| send     | {command, to, params?, text?, origin?}   | {"answers": [{peer_id, status, ...}]}     |
| load     | {shard_id}                               | what LOAD_SHARD on this node answers      |
| unload   | {shard_id}                               | what UNLOAD_SHARD on this node answers    |
| settings | {}                                       | settings without secrets, where each came |
| get      | {what, root?, load?}                     | {info_hash, filename, status}             |
| pause    | {what}                                   | {info_hash, filename, status}             |
| resume   | {what}                                   | {info_hash, filename, status}             |
| cancel   | {what, keep?}                            | {info_hash, filename, status}             |
| publish  | {path}                                   | {info_hash, filename, size, root, ...}    |
| stop     | {reason?}                                | {} and the node leaves the swarm          |

`what` is a file name (shard-3.gguf), a shard id as text, or an info hash (a unique beginning of at
least eight digits is enough). `root` in hex decides between contents; `load` (default: true for a
shard) loads it afterwards; `keep` leaves what was fetched for a later start. `path` is absolute.
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
GET: Final = "get"
PAUSE: Final = "pause"
RESUME: Final = "resume"
CANCEL: Final = "cancel"
PUBLISH: Final = "publish"
STOP: Final = "stop"

NAMES: Final = (
    *(STATUS, SEND, LOAD, UNLOAD, SETTINGS),
    *(GET, PAUSE, RESUME, CANCEL, PUBLISH, STOP),
)
