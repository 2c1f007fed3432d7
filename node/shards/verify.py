"""Prove a cut: the chain of shards must give the whole model's logits, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from node.errors import PlainError
from node.shards.engine import LoadedShard, load_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROMPT_TOKENS = 24
GREEDY_TOKENS = 16


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """positions: rows of logits compared. max_delta: the largest difference, 0.0."""

    positions: int
    max_delta: float


def verify_shards(
    model_path: str | os.PathLike[str],
    shard_paths: Sequence[str | os.PathLike[str]],
    *,
    seed: int = 0,
    threads: int | None = None,
) -> VerifyReport:
    """Run the whole model, then its shards one after the other, over the same tokens.

    The tokens are a seeded prompt and the whole model's greedy continuation. Only one file is in
    memory at a time. Raises PlainError where a single logit differs.
    """
    import numpy as np

    with load_model(model_path, threads=threads, n_ctx=PROMPT_TOKENS + GREEDY_TOKENS) as whole:
        tokens, wanted = _run_whole(whole, seed)
    flow: NDArray[np.float32] | list[int] = tokens
    for path in shard_paths:
        with load_model(path, threads=threads, n_ctx=PROMPT_TOKENS + GREEDY_TOKENS) as shard:
            rows = [shard.forward(flow[:PROMPT_TOKENS], 0)]
            rows += [
                shard.forward(flow[position : position + 1], position)
                for position in range(PROMPT_TOKENS, len(tokens))
            ]
        flow = np.concatenate(rows)
    got = np.asarray(flow)
    if got.shape != wanted.shape or not np.array_equal(got, wanted, equal_nan=True):
        delta = float(np.max(np.abs(got - wanted))) if got.shape == wanted.shape else float("inf")
        raise PlainError(
            f"The shards do not compute what the model computes (largest difference {delta:g}).",
            "Do not use this cut; please report the model's architecture and quantisation.",
        )
    return VerifyReport(positions=len(wanted), max_delta=0.0)


def _run_whole(whole: LoadedShard, seed: int) -> tuple[list[int], NDArray[np.float32]]:
    """The prompt with its greedy continuation, and the logits at every one of its positions."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(seed))
    tokens = [int(token) for token in random.integers(0, whole.info.vocab, PROMPT_TOKENS)]
    rows = [whole.forward(tokens, 0)]
    for _ in range(GREEDY_TOKENS):
        tokens.append(int(np.argmax(rows[-1][-1])))
        rows.append(whole.forward(tokens[-1:], len(tokens) - 1))
    return tokens, np.concatenate(rows)
