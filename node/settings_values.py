"""How one setting is described, read from text and checked. The settings are in node.settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from node.clean import clean
from node.errors import PlainError

MAX_TEXT = 4096
MAX_ITEMS = 1000
MAX_SHARDS_PER_NODE = 64
"""Announcements of one peer that others keep; a node that held more would be seen in part."""
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting is besides its name, type and default (those are its field's).

    flag:    command line flag, empty where the setting has none; a name after a slash switches off.
    env:     environment variables besides SWARMTUI_<NAME>, the first that is set wins.
    low/high: limits of a number, both included.
    check:   raises ValueError with the allowed range where a text is not acceptable.
    allowed: the allowed range in words, for errors and help.
    group:   heading in the settings table.
    """

    help: str
    flag: str = ""
    env: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    check: Callable[[str], None] | None = None
    allowed: str = ""
    metavar: str = ""
    group: str = "node"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table: an `Option` with its field's name, type and default."""

    name: str
    kind: Any
    default: object
    option: Option

    @property
    def many(self) -> bool:
        """Whether the setting holds several values (a repeatable flag, a TOML array)."""
        return get_origin(self.kind) is tuple

    @property
    def item(self) -> Any:
        """The type of one value."""
        return get_args(self.kind)[0] if self.many else self.kind

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words of a Literal setting, else empty."""
        return get_args(self.item) if get_origin(self.item) is Literal else ()

    @property
    def variables(self) -> tuple[str, ...]:
        """Every environment variable that sets it, strongest first."""
        return (f"SWARMTUI_{self.name.upper()}", *self.option.env)

    @property
    def allowed(self) -> str:
        """The allowed range in words."""
        option = self.option
        if option.allowed:
            return option.allowed
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        if self.item is bool:
            return "true or false"
        if self.item in (int, float):
            word = "a whole number" if self.item is int else "a number"
            if option.low is not None and option.high is not None:
                low, high = (
                    (int(option.low), int(option.high))
                    if self.item is int
                    else (f"{option.low:g}", f"{option.high:g}")
                )
                return f"{word} from {low} to {high}"
            return word
        return "a path" if self.item is Path else f"text of at most {MAX_TEXT} characters"

    def parse(self, raw: object, source: str) -> object:
        """The value of this setting from a flag, a variable's text or a TOML value.

        Raises PlainError naming the setting, the value, its source and the allowed range.
        """
        if not self.many:
            return self._one(raw, source)
        if isinstance(raw, str):
            raw = [part for part in re.split(r"[,\s]+", raw) if part]
        elif isinstance(raw, list | tuple):
            raw = [
                part
                for item in raw
                for part in (re.split(r"[,\s]+", item) if isinstance(item, str) else [item])
                if part != ""
            ]
        else:
            raw = [raw]
        if len(raw) > MAX_ITEMS:
            raise self.refused(f"{len(raw)} values", source, f"at most {MAX_ITEMS} values")
        return tuple(dict.fromkeys(self._one(item, source) for item in raw))

    def refused(self, raw: object, source: str, allowed: str = "") -> PlainError:
        """The error for a value that is not acceptable."""
        where = "" if source == "default" else f" (from {clean(source, 200)})"
        return PlainError(
            f"The setting {self.name} cannot be {clean(raw, 80)!r}{where}.",
            f"Allowed: {allowed or self.allowed}.",
        )

    def _one(self, raw: object, source: str) -> object:
        try:
            value = _convert(self.item, raw)
            self._check(value)
        except (ValueError, OverflowError) as error:
            raise self.refused(raw, source, str(error)) from None
        return value

    def _check(self, value: object) -> None:
        option = self.option
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = option.low, option.high
            # A NaN fails both comparisons, so it is refused too.
            if (low is not None and not value >= low) or (high is not None and not value <= high):
                raise ValueError(self.allowed)
        if self.choices and value not in self.choices:
            raise ValueError(self.allowed)
        if isinstance(value, str) and option.check is not None:
            option.check(value)


def _convert(kind: Any, raw: object) -> object:
    """`raw` as `kind`; ValueError (with an empty text) where it is not one."""
    text = raw.strip() if isinstance(raw, str) else raw
    if kind is bool:
        if isinstance(text, bool):
            return text
        if isinstance(text, str) and text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise ValueError
    if isinstance(text, bool):
        raise ValueError
    if kind is int or kind is float:
        try:
            if kind is int and isinstance(text, float):
                raise ValueError
            return int(str(text)) if kind is int else float(str(text))
        except (TypeError, ValueError):
            raise ValueError from None
    if isinstance(text, Path):
        text = str(text)
    if not isinstance(text, str) or len(text) > MAX_TEXT or "\0" in text:
        raise ValueError
    if kind is Path:
        if not text:
            raise ValueError
        return Path(text).expanduser()
    return text


# ------------------------------------------------------------ checks of texts


def cluster_name(text: str) -> None:
    """1 to 64 of a-z, 0-9, '-', '_' and '.'."""
    if not re.fullmatch(r"[a-z0-9._-]{1,64}", text):
        raise ValueError("1 to 64 characters of a-z, 0-9, '-', '_' and '.'")


def node_name(text: str) -> None:
    """Empty (derived from the shards), or 1 to 64 characters that are safe in a path."""
    if text and (not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) or set(text) == {"."}):
        raise ValueError("1 to 64 characters of letters, digits, '.', '_' and '-'")


def ip_literal(text: str) -> None:
    """An IPv4 or IPv6 address."""
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("an IP address such as 0.0.0.0, 127.0.0.1 or ::") from None


_HOST = re.compile(r"/(ip4|ip6|dns|dns4|dns6|dnsaddr)/([^/\s]{1,253})(.*)")
_HOST_PORT = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
_TAIL = re.compile(
    r"(/(tcp|udp)/(?P<port>\d{1,5}))?(/quic-v1)?(/certhash/[A-Za-z0-9_-]{1,100})*"
    r"(/(p2p|ipfs)/[1-9A-HJ-NP-Za-km-z]{10,100})?"
)


def multiaddr(text: str) -> None:
    """What can be dialled: /ip4/192.0.2.7/tcp/51820[/p2p/<peer id>], or host:port."""
    allowed = "an address such as 192.0.2.7:51820 or /ip4/192.0.2.7/udp/51820/quic-v1"
    plain = _HOST_PORT.fullmatch(text) if len(text) <= 270 else None
    if plain is not None and 1 <= int(plain.group(1)) <= 65535:
        return
    host = _HOST.fullmatch(text) if len(text) <= 512 else None
    tail = _TAIL.fullmatch(host.group(3)) if host else None
    if host is None or tail is None:
        raise ValueError(allowed)
    if host.group(1) in ("ip4", "ip6"):
        ip_literal(host.group(2))
        if (":" in host.group(2)) != (host.group(1) == "ip6"):
            raise ValueError(allowed)
    port = tail.group("port")
    if port is None and host.group(1) != "dnsaddr":
        raise ValueError(allowed)
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError("a multiaddr with a port from 1 to 65535")


def pin(text: str) -> None:
    """A file name, '@' and 64 hex digits."""
    if not re.fullmatch(r"[^@/]{1,255}@[0-9a-f]{64}", text):
        raise ValueError("a file name, '@' and a root of 64 hex digits")


def peer_id(text: str) -> None:
    """A peer id in base58."""
    if not re.fullmatch(r"[1-9A-HJ-NP-Za-km-z]{40,128}", text):
        raise ValueError("a peer id")
