"""The cipher suites of our Noise sessions and which of them this machine offers.

libp2p's Noise is `Noise_XX_25519_ChaChaPoly_SHA256`. Processors with AES instructions do AES-GCM
in a quarter of the time, and encryption is the largest part of what a transfer costs. So nodes
that have them also speak `Noise_XX_25519_AESGCM_SHA256`, under a protocol id of its own and
chosen by multistream-select like any other: a stock peer declines it and `/noise` is used.
Sources: the Noise Protocol Framework (revision 34, sections 4.2, 5.1, 11.3 and 12.4).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from libp2p.custom_types import TProtocol
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID

Aead: TypeAlias = ChaCha20Poly1305 | AESGCM

NEVER = 2**64
LAST_NONCE = 2**64 - 1
# AES-GCM's margin shrinks with the square of what one key has encrypted: 64 GiB at most.
AES_MESSAGES_PER_KEY = 2**20
_TRIAL = bytes(32 * 1024)
_TRIALS = 5
WORTH = 0.75


@dataclass(frozen=True)
class Suite:
    """One Noise suite: `cipher(key)` is the AEAD, `nonce(n)` the 12 bytes of message n.

    Both sides change a direction's key by REKEY after `messages_per_key` messages.
    """

    protocol: TProtocol
    noise_name: bytes
    cipher: Callable[[bytes], Aead]
    nonce: Callable[[int], bytes]
    messages_per_key: int = NEVER

    def next_key(self, cipher: Aead) -> bytes:
        """REKEY of the Noise framework: 32 bytes that only the two sides can know."""
        return cipher.encrypt(self.nonce(LAST_NONCE), bytes(32), None)[:32]


CHACHA_POLY = Suite(
    protocol=NOISE_PROTOCOL_ID,
    noise_name=b"Noise_XX_25519_ChaChaPoly_SHA256",
    cipher=ChaCha20Poly1305,
    nonce=Struct("<4xQ").pack,
)
AES_GCM = Suite(
    protocol=TProtocol("/llama-noise-aesgcm/1.0.0"),
    noise_name=b"Noise_XX_25519_AESGCM_SHA256",
    cipher=AESGCM,
    nonce=Struct(">4xQ").pack,
    messages_per_key=AES_MESSAGES_PER_KEY,
)


def offered() -> tuple[Suite, ...]:
    """The suites of this machine, the preferred one first: AES-GCM only where it is faster."""
    try:
        aes, chacha = _seconds(AES_GCM), _seconds(CHACHA_POLY)
    except UnsupportedAlgorithm:
        return (CHACHA_POLY,)
    return (AES_GCM, CHACHA_POLY) if aes < WORTH * chacha else (CHACHA_POLY,)


def _seconds(suite: Suite) -> float:
    """The best of a few trials of encrypting 32 KiB."""
    cipher = suite.cipher(bytes(32))
    best = float("inf")
    for number in range(_TRIALS):
        begun = time.perf_counter()
        cipher.encrypt(suite.nonce(number), _TRIAL, None)
        best = min(best, time.perf_counter() - begun)
    return best
