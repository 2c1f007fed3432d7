"""Check a file's vocabulary before llama.cpp reads it.

llama.cpp stops the process where two tokens are equal, and reads past the end of arrays that are
shorter than the list of tokens.
"""

from __future__ import annotations

from typing import NoReturn

from node.clean import clean
from node.errors import PlainError
from node.shards.header import ARRAY, FLOAT32, INT32, SCALARS, STRING, UINT64, Header

TOKENIZERS = ("llama", "gpt2")
NO_VOCABULARY = ("no_vocab", "none")


def check_vocabulary(header: Header, vocab: int) -> None:
    """Require a vocabulary of `vocab` distinct tokens, or the declared absence of one.

    Reads the token list (tens of milliseconds for 150,000 tokens). Raises PlainError.
    """

    def stop(reason: str) -> NoReturn:
        raise PlainError(
            f"{clean(header.path.name, 120)} cannot be loaded: {reason}.",
            "Copy or download it again, or cut the model again with swarmtui split.",
        )

    kind = header.text("tokenizer.ggml.model")
    if kind in NO_VOCABULARY:
        return
    if kind not in TOKENIZERS:
        stop(f"its tokenizer '{clean(kind or 'unknown', 40)}' is not supported")
    arrays = {"tokens": STRING, "scores": FLOAT32, "token_type": INT32, "merges": STRING}
    for name, item in arrays.items():
        record = header.metadata.get(f"tokenizer.ggml.{name}")
        if record is None:
            if name == "tokens" or (name == "merges" and kind == "gpt2"):
                stop(f"its tokenizer has no {name}")
            continue
        if record.type != ARRAY or record.element_type != item:
            stop(f"the {name} of its tokenizer are of the wrong type")
        if name != "merges" and record.count != vocab:
            stop(f"its tokenizer has {record.count} {name} for {vocab} tokens")
    tokens = header.metadata["tokenizer.ggml.tokens"]
    # The record ends with the tokens; their total length follows from where they must begin.
    begin = tokens.start + 8 + len(tokens.key.encode("utf-8")) + 4 + 4 + 8
    with header.path.open("rb") as file:
        file.seek(begin)
        raw = file.read(tokens.end - begin)
    unpack = SCALARS[UINT64].unpack_from
    seen: set[bytes] = set()
    position = 0
    for index in range(tokens.count):
        if position + 8 > len(raw):
            stop("it changed while it was read")
        length = unpack(raw, position)[0]
        position += 8 + length
        # As llama.cpp reads them: up to the first zero byte, and named by number where empty.
        token = raw[position - length : position].split(b"\0", 1)[0]
        seen.add(token or b"[EMPTY_%d]" % index)
    if len(seen) != tokens.count:
        stop("two of its tokens are equal")
