"""The bug report: one zip with everything needed to understand a problem, and no secret.

It holds log.txt, events.jsonl, state.json, settings.json, versions.json and, from the console,
screen.txt and screen.svg. Imports no terminal library: the command line writes the same file.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import sys
import time
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from node import __version__
from node.clean import clean
from node.door import Door
from node.errors import PlainError
from node.events import Event, encode
from node.requests import SETTINGS
from swarmtui.history import History

PACKAGES = (
    "swarmtui", "textual", "libp2p", "llama-cpp-python", "trio", "msgspec", "click", "numpy",
    "gguf", "rich",
)
SETTINGS_TIMEOUT_S = 5.0
HIDDEN = "[hidden]"
_WORDS = r"token|secrets?|passw(?:or)?ds?|passphrase|api[_-]?key|private[_-]?key|credentials?"
_SECRET_KEY = re.compile(rf"(?:{_WORDS}|authorization|psk)\Z", re.IGNORECASE)
# Login names that are also words of our own are hidden in paths only.
_OWN_WORDS = frozenset(
    ("root", "user", "admin", "node", "peer", "shard", "local", "test", "model", "swarm", "llama")
)
_SECRET_TEXT = re.compile(
    rf"(?P<key>\b\w*(?:{_WORDS}|authorization)\b(?P<end>\\?[\"']?)\s*[=:]\s*(?:bearer\s+)?)"
    r"(?P<open>\\?[\"'])?(?(open)(?:(?!(?P=open)).)*(?P=open)|[^\s,;&\"'{}\[\]\\]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_PEM = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_KNOWN_TOKENS = re.compile(r"\b(?:hf|ghp|gho|sk|xox[bp])[_-][A-Za-z0-9_-]{16,}")
_LOGIN_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@")


def write_bundle(
    door: Door,
    out_dir: Path,
    *,
    screen_text: str | None = None,
    screen_svg: str | None = None,
) -> Path:
    """Write the report into `out_dir` with mode 0600 and return its path.

    Raises PlainError when the folder cannot be written.
    """
    hide = redactor()
    state = door.snapshot().state
    events, log = _history(door)
    files = {
        "log.txt": hide(log),
        "events.jsonl": hide(events),
        "state.json": hide(_pretty(msgspec.to_builtins(state, str_keys=True))),
        "settings.json": hide(_pretty(without_secrets(_settings(door)))),
        "versions.json": _pretty(versions()),
    }
    if screen_text is not None:
        files["screen.txt"] = hide(screen_text)
    if screen_svg is not None:
        files["screen.svg"] = hide(screen_svg)
    name = state.node.name or state.node.peer_id[-8:] if state.node is not None else "unknown"
    return _write(out_dir, _safe(hide(name)), files)


def redactor() -> Callable[[str], str]:
    """A function that hides secrets, the home folder and the user's name in a text."""
    home = os.path.expanduser("~")
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    alone = len(user) > 2 and user.lower() not in _OWN_WORDS
    before = r"(?<![\w-])" if alone else r"(?<=/home/)|(?<=/Users/)"
    name = re.compile(rf"(?:{before}){re.escape(user)}(?![\w-])") if user else None

    def hide(text: str) -> str:
        text = _PEM.sub(HIDDEN, text)
        text = _LOGIN_IN_URL.sub(rf"\1{HIDDEN}@", text)
        text = _SECRET_TEXT.sub(_hidden, text)
        text = _BEARER.sub(rf"\1{HIDDEN}", text)
        text = _KNOWN_TOKENS.sub(HIDDEN, text)
        if len(home) > 1:
            text = text.replace(home, "~")
        return name.sub("user", text) if name is not None else text

    return hide


def _hidden(match: re.Match[str]) -> str:
    """The key of a secret with its value hidden, quoted where JSON needs it."""
    quote = match["open"] or (match["end"] if match["end"].endswith('"') else "")
    return f"{match['key']}{quote}{HIDDEN}{quote}"


def without_secrets(value: Any) -> Any:
    """The same JSON value with whatever a secret's name holds hidden."""
    if isinstance(value, dict):
        return {
            str(key): HIDDEN if _SECRET_KEY.search(str(key)) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


def versions() -> dict[str, str]:
    """Versions of Python, the system and the packages that matter."""
    found = {
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "terminal": clean(os.environ.get("TERM", ""), 40),
        "node": __version__,
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _settings(door: Door) -> Any:
    try:
        return door.request(SETTINGS, {}).result(timeout=SETTINGS_TIMEOUT_S)
    except PlainError as error:
        return {"problem": str(error)}
    except TimeoutError:
        return {"problem": f"The node did not answer within {SETTINGS_TIMEOUT_S:.0f} s."}


def _history(door: Door) -> tuple[str, str]:
    """Every event the door remembers as JSON lines, and the log they make."""
    history = History(door)
    told: list[bytes] = []
    text: list[str] = []
    while True:
        events, lines = history.batch(1000)
        if not events:
            break
        told.extend(_encoded(event) for event in events)
        for line in lines:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line.at))
            tag = line.tag.strip("[]")
            text.append(f"{when}Z {line.level:<7} [{tag}] {clean(line.text, 4096)}")
    return b"\n".join(told).decode() + "\n", "\n".join(text) + "\n"


def _encoded(event: Event) -> bytes:
    return encode(event)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:40].strip("-.") or "node"


def _write(out_dir: Path, name: str, files: dict[str, str]) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = out_dir / f"swarmtui-report-{name}-{stamp}.zip"
    number = 1
    try:
        while True:
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                break
            except FileExistsError:
                number += 1
                path = out_dir / f"swarmtui-report-{name}-{stamp}-{number}.zip"
        try:
            with os.fdopen(handle, "wb") as file, zipfile.ZipFile(
                file, "w", zipfile.ZIP_DEFLATED
            ) as archive:
                for entry, text in files.items():
                    archive.writestr(entry, text)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PlainError(
            f"The report cannot be written to {clean(out_dir, 200)}: "
            f"{clean(error.strerror or error, 120)}.",
            "Choose a folder that you may write to, with space on its disk.",
        ) from None
    return path
