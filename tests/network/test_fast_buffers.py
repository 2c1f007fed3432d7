"""Buffers that are used again: never while somebody looks at them, and not kept for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from node.network.fast.buffers import BUFFERS, BufferPool
from node.network.fast.noise_messages import (
    MAX_PLAINTEXT,
    POOLED_FROM,
    QUIET_READS,
    Buffer,
    Opener,
    Sealer,
)

KEY = bytes(range(32))


def test_a_buffer_that_is_looked_at_is_not_given_out() -> None:
    pool = BufferPool(100, 2)
    view = memoryview(pool.take())[10:20]
    pool.rewind()
    second = pool.take()
    assert second is not view.obj
    pool.rewind()
    assert pool.take() is not second and pool.kept == 200
    first = id(view.obj)
    del view
    pool.rewind()
    assert id(pool.take()) == first


def test_a_pool_keeps_no_more_than_it_may() -> None:
    pool = BufferPool(100, 3)
    held = [pool.take() for _ in range(10)]
    assert len({id(item) for item in held}) == 10
    assert pool.kept == 300
    pool.clear()
    assert pool.kept == 0


def _arrive(opener: Opener, data: Buffer) -> list[Buffer]:
    found: list[Buffer] = []
    view = memoryview(data)
    while view:
        space = opener.space()
        size = min(len(space), len(view))
        space[:size] = view[:size]
        space.release()
        found += opener.filled(size)
        view = view[size:]
    return found


sizes = st.sampled_from([0, 1, POOLED_FROM - 17, POOLED_FROM - 16, POOLED_FROM, MAX_PLAINTEXT])


@given(st.lists(st.tuples(sizes, st.integers(0, 255), st.booleans()), max_size=60))
def test_what_is_still_held_never_changes(plan: list[tuple[int, int, bool]]) -> None:
    """Random messages, of which some are held for ever."""
    sealer, opener = Sealer(KEY), Opener(KEY)
    held: list[tuple[Buffer, bytes]] = []
    for size, fill, keep in plan:
        message = bytes([fill]) * size
        [found] = _arrive(opener, b"".join(sealer.seal(message)))
        assert found == message
        if keep:
            held.append((found, message))
        del found
    assert all(found == message for found, message in held)


@pytest.mark.parametrize("size", [POOLED_FROM, MAX_PLAINTEXT])
def test_the_memory_stays_small_and_goes_when_only_small_messages_come(size: int) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    for _ in range(100):
        assert len(_arrive(opener, b"".join(sealer.seal(bytes(size))))) == 1
    assert 0 < opener._pool.kept <= BUFFERS * MAX_PLAINTEXT
    for _ in range(QUIET_READS + 1):
        assert _arrive(opener, b"".join(sealer.seal(b"ping"))) == [b"ping"]
    assert opener._pool.kept == 0
