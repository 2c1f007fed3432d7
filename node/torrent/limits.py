"""Every limit of the transfer in one place, so that a bound is never spelled twice.

Sizes in bytes, times in seconds unless the name says otherwise. What a peer sends is compared with
these before anything is allocated, stored or believed.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# ---------------------------------------------------------------- files
LEAF_BYTES: Final = 16 * KIB
"""What one leaf of the hash tree covers, and the unit a wrong byte is blamed in."""
HASH_BYTES: Final = 32
BLOCK_BYTES: Final = 256 * KIB
"""The largest span of one request: below it the cost per block shows, above it nothing is won."""
MAX_FILE_BYTES: Final = 1024 * GIB
MAX_PIECES: Final = 32_768
MIN_PIECE_BYTES: Final = 256 * KIB
MAX_PIECE_BYTES: Final = 32 * MIB
MAX_NAME_BYTES: Final = 255

# ---------------------------------------------------------------- frames
HEADER_BYTES: Final = 12
MAX_FRAME_BYTES: Final = 300 * KIB
"""Payload of any frame; no peer can make us allocate more for one."""
MAX_HELLO_BYTES: Final = 4 * KIB
MAX_BLOCKS_PER_FRAME: Final = 64
MAX_HAVE_PER_FRAME: Final = 1024
MAX_HASHES: Final = 512
MIN_HASHES: Final = 2
MAX_UNCLES: Final = 20
MAX_ERROR_BYTES: Final = 256
RETRY_MS: Final = (100, 60_000)
MAX_SLOTS: Final = 4096

# ---------------------------------------------------------------- peers
MAX_STREAMS_PER_PEER: Final = 8
MAX_FILES_PER_PEER: Final = 4
MAX_PEERS: Final = 64
UPLOAD_SLOTS: Final = 8
SEND_QUEUE_BYTES: Final = 2 * MIB
START_WINDOW_BYTES: Final = 2 * MIB
MIN_WINDOW_BYTES: Final = 1 * MIB
MAX_WINDOW_BYTES: Final = 16 * MIB

# ---------------------------------------------------------------- times
HELLO_TIMEOUT_S: Final = 10.0
OPEN_TIMEOUT_S: Final = 10.0
FRAME_TIMEOUT_S: Final = 15.0
STALL_S: Final = 5.0
STALL_BLOCKS: Final = 8.0
"""A peer stalls after this many times what one block is expected to take, STALL_S at least."""
CLOSE_AFTER_S: Final = 30.0
SLOW_BYTES_PER_S: Final = 16 * KIB
SLOW_OVER_S: Final = 30.0
HAVE_BATCH_S: Final = 0.25
BACKOFF_START_S: Final = 5.0
BACKOFF_CAP_S: Final = 600.0
BACKOFF_JITTER: Final = 0.2
BAN_S: Final = 86_400.0

# ---------------------------------------------------------------- picking
RANDOM_FIRST: Final = 4
STEAL_ALWAYS: Final = 10.0
STEAL_WHEN_IDLE: Final = 3.0
MAX_COPIES: Final = 2

# ---------------------------------------------------------------- disk
CHECKPOINT_BYTES: Final = 64 * MIB
CHECKPOINT_S: Final = 5.0
SAMPLE_PIECES: Final = 64

# ---------------------------------------------------------------- manifests
MAX_MANIFEST_BYTES: Final = 2048
MANIFEST_LIFE_S: Final = 48 * 3600
MANIFEST_AHEAD_S: Final = 300
MAX_PUBLISHERS: Final = 16
MAX_KNOWN_ROOTS: Final = 4096
