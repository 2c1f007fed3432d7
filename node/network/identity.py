"""Who a node is: an Ed25519 key pair kept on disk, one per node name, and signatures with it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from libp2p.crypto.ed25519 import Ed25519PrivateKey, Ed25519PublicKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.identity_utils import load_identity, save_identity
from libp2p.peer.id import ID

from node.errors import PlainError

MAX_PEER_ID_CHARS = 128


class Identity:
    """A key pair and the peer id that follows from it."""

    def __init__(self, key_pair: KeyPair) -> None:
        self.key_pair = key_pair
        self.id = ID.from_pubkey(key_pair.public_key)
        self.peer_id = str(self.id)

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `data`."""
        private = self.key_pair.private_key
        assert isinstance(private, Ed25519PrivateKey)
        return private.sign(data)

    @classmethod
    def create(cls) -> Identity:
        """A new random identity, not kept anywhere."""
        return cls(create_new_key_pair())


class NameInUse(PlainError):
    """Another process of this machine runs under the same node name."""


class IdentityFile:
    """An identity on disk, held by one process at a time.

    `path` is created with mode 0600 on first use. `lock` next to it keeps two processes from
    being the same node; it goes with the process, so nothing has to be cleaned after a crash.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None

    def acquire(self, name: str) -> Identity:
        """Load or create the identity.

        Raises PlainError when the folder cannot be written or the file is damaged, NameInUse when
        another process holds it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = open(self.path.with_suffix(".lock"), "ab")  # noqa: SIM115
        except OSError as error:
            raise PlainError(
                f"The node's identity folder {self.path.parent} cannot be written"
                f" ({error.strerror}).",
                "Give this user write access to it, or set SWARMTUI_HOME to another folder.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise NameInUse(
                f"A node named '{name}' is already running on this machine.",
                "Give this one another name with --name, or use 'swarmtui attach' to see that one.",
            ) from error
        try:
            if self.path.exists():
                return Identity(load_identity(self.path))
            identity = Identity.create()
            save_identity(identity.key_pair, self.path)
            os.chmod(self.path, 0o600)
            return identity
        except Exception as error:
            self.release()
            raise PlainError(
                f"The identity file {self.path} cannot be used ({error}).",
                "Move it away to start with a new identity; peers will see a new node.",
            ) from error

    def release(self) -> None:
        """Let another process have the name."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def parse_peer_id(text: str) -> ID:
    """The peer id written as `text` (base58); ValueError on anything else."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_PEER_ID_CHARS or not text.isalnum():
        raise ValueError("not a peer id")
    try:
        peer_id = ID.from_base58(text)
    except Exception as error:
        raise ValueError("not a peer id") from error
    if str(peer_id) != text or not _is_multihash(peer_id.to_bytes()):
        raise ValueError("not a peer id")
    return peer_id


def _is_multihash(raw: bytes) -> bool:
    """A short key itself (identity, as Ed25519's) or the SHA-256 of a long one."""
    if raw[:1] == b"\0":
        return 2 < len(raw) <= 44 and raw[1] == len(raw) - 2
    return raw[:2] == b"\x12\x20" and len(raw) == 34


def verify(peer_id: str, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made by the owner of `peer_id`.

    Ed25519 peer ids carry their public key, so nothing has to be looked up. Total: malformed
    input is False.
    """
    try:
        public = parse_peer_id(peer_id).extract_public_key()
    except ValueError:
        return False
    if not isinstance(public, Ed25519PublicKey) or len(signature) != 64:
        return False
    return public.verify(data, signature)
