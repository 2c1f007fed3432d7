"""Load shards with llama.cpp and run hidden states through them. All of llama_cpp is in here.

Everything here blocks and holds no Python lock while llama.cpp works: call it from a worker
thread. Importing this module is cheap; llama_cpp itself is imported by the first load.

How a shard runs on an unpatched llama.cpp: the hidden states of the previous shard go in as
embeddings, and those of this shard are read when the graph has computed its last layer's output
("l_out-N"); the graph is then stopped, so that only the last shard pays for an output head.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from node.clean import clean
from node.errors import PlainError
from node.shards.header import read_header
from node.shards.inspect import ShardFile, inspect_gguf, inspect_shard
from node.shards.vocabulary import check_vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[float], None]

# Rows per call of llama.cpp. The same everywhere, because the kernels for one row and for many
# may round differently: a chain is bit-identical to the whole model when both take the same
# steps. Small, because llama.cpp reserves a row of the vocabulary's width for each.
BATCH_ROWS = 128

_LOG_ERROR = 4
_log_lines = threading.local()


def load_shard(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    use_mmap: bool = True,
    n_ctx: int = 512,
    on_progress: Progress | None = None,
) -> LoadedShard:
    """Bring the weights of a shard file into memory.

    threads: by default every core this process may use. n_ctx: positions the KV cache can hold.
    on_progress: called in this thread with 0.0…1.0; an exception from it ends the load and comes
    out of here. Raises PlainError where the file is not a usable shard or memory is short.
    """
    return LoadedShard(inspect_shard(path), threads, use_mmap, n_ctx, on_progress)


def load_model(
    path: str | os.PathLike[str], *, threads: int | None = None, n_ctx: int = 512
) -> LoadedShard:
    """Load a whole model, or a shard under any file name, as `load_shard` loads a shard."""
    return LoadedShard(inspect_gguf(path), threads, True, n_ctx, None)


class LoadedShard:
    """Weights in memory, and one sequence's KV cache. Use from one thread at a time."""

    def __init__(
        self,
        info: ShardFile,
        threads: int | None,
        use_mmap: bool,
        n_ctx: int,
        on_progress: Progress | None,
    ) -> None:
        self.info = info
        self.n_ctx = n_ctx
        self._lock = threading.Lock()
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._callback: Any = None
        self._rows: list[NDArray[np.float32]] = []
        self._failure: BaseException | None = None
        self._layers = info.layer_end - info.layer_start
        self._length = 0
        check_vocabulary(read_header(info.path), info.vocab if info.has_embeddings else 1)
        self._lib = _library()
        _log_lines.kept = deque(maxlen=4)
        try:
            self._load(use_mmap, on_progress)
            self._open(threads or _usable_cores())
        except BaseException:
            self.close()
            raise
        self.weight_bytes = int(self._lib.llama_model_size(self._model))

    def __enter__(self) -> LoadedShard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True once the weights were let go."""
        return self._model is None

    def close(self) -> None:
        """Let go of the weights. Waits for a running `forward`; closing twice is fine."""
        with self._lock:
            if self._batch is not None:
                self._lib.llama_batch_free(self._batch)
            if self._context is not None:
                self._lib.llama_free(self._context)
            if self._model is not None:
                self._lib.llama_model_free(self._model)
            self._batch = self._context = self._model = self._callback = None

    def reset(self) -> None:
        """Forget the sequence: the next `forward` starts at position 0."""
        with self._lock:
            self._require_open()
            self._rewind(0)

    def forward(
        self, inputs: Sequence[int] | NDArray[np.float32], position: int, *, last_only: bool = False
    ) -> NDArray[np.float32]:
        """Run the next rows of the sequence, which begin at `position`, through this shard.

        position: at most the number of rows seen; where it is less, what came after is forgotten.
        inputs: token ids for the first shard, hidden states [rows, n_embd] f32 for any other.
        Returns hidden states [rows, n_embd] f32, or logits [rows, vocab] f32 from the last shard
        (one row with last_only). Raises ValueError for inputs of a wrong shape or range,
        PlainError where llama.cpp refuses.
        """
        import numpy as np

        width = self.info.n_embd
        if self.info.has_embeddings:
            rows: NDArray[Any] = np.asarray(inputs, dtype=np.int32)
            if rows.ndim != 1 or not ((rows >= 0) & (rows < self.info.vocab)).all():
                raise ValueError(f"token ids must lie in [0, {self.info.vocab})")
        else:
            rows = np.ascontiguousarray(inputs, dtype=np.float32)
            if rows.ndim != 2 or rows.shape[1] != width:
                raise ValueError(f"hidden states must have the shape [rows, {width}]")
        if not len(rows) or position < 0 or position + len(rows) > self.n_ctx:
            raise ValueError(f"positions must lie in [0, {self.n_ctx})")
        with self._lock:
            self._require_open()
            if position > self._length:
                raise ValueError(f"position {position} leaves a gap after {self._length} rows")
            self._rewind(position)
            out = []
            for start in range(0, len(rows), BATCH_ROWS):
                part = rows[start : start + BATCH_ROWS]
                final = start + len(part) == len(rows)
                result = self._decode(part, position + start, last_only=last_only)
                self._length = position + start + len(part)
                if final or not (last_only and self.info.has_output):
                    out.append(result)
        return np.concatenate(out)

    def _decode(self, rows: NDArray[Any], position: int, *, last_only: bool) -> NDArray[np.float32]:
        import numpy as np

        batch = self._batch
        batch.n_tokens = len(rows)
        ctypes.memmove(
            batch.token if self.info.has_embeddings else batch.embd,
            np.ascontiguousarray(rows).ctypes.data,
            rows.nbytes,
        )
        last = len(rows) - 1
        outputs = 0
        for row in range(len(rows)):
            batch.pos[row] = position + row
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = 0
            # The last layer drops the rows that are not asked for, and the next shard needs all.
            wanted = not (last_only and self.info.has_output) or row == last
            batch.logits[row] = wanted
            outputs += wanted
        self._rows, self._failure = [], None
        _log_lines.kept = deque(maxlen=4)
        code = self._lib.llama_decode(self._context, batch)
        if self._failure is not None:
            raise self._failure
        if code:
            raise PlainError(
                f"llama.cpp could not compute {clean(self.info.filename, 120)} (code {code})"
                f"{_last_words()}.",
                "Unload the shard and load it again.",
            )
        if self.info.has_output:
            pointer = self._lib.llama_get_logits(self._context)
            view = np.ctypeslib.as_array(pointer, shape=(outputs, self.info.vocab))
            return np.array(view, dtype=np.float32)
        if sum(map(len, self._rows)) != len(rows):
            raise PlainError(
                f"llama.cpp gave no hidden states for {clean(self.info.filename, 120)}.",
                "This version of llama-cpp-python does not fit; install the one named in the "
                "README.",
            )
        return np.concatenate(self._rows)

    def _rewind(self, length: int) -> None:
        # Also after a failed call, of which the cache may hold a part.
        memory = self._lib.llama_get_memory(self._context)
        self._lib.llama_memory_seq_rm(memory, 0, length, -1)
        self._length = length

    def _load(self, use_mmap: bool, on_progress: Progress | None) -> None:
        lib = self._lib
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if use_mmap else lib.LLAMA_LOAD_MODE_NONE
        raised: list[BaseException] = []

        def report(fraction: float, _: Any) -> bool:
            try:
                if on_progress is not None:
                    on_progress(min(max(fraction, 0.0), 1.0))
            except BaseException as error:  # carried past the C frames and raised below
                raised.append(error)
                return False
            return True

        callback = lib.llama_progress_callback(report)
        params.progress_callback = callback
        self._model = lib.llama_model_load_from_file(os.fsencode(self.info.path), params)
        if raised:
            raise raised[0]
        if self._model is None:
            raise PlainError(
                f"llama.cpp could not load {clean(self.info.filename, 120)}{_last_words()}.",
                "Check that it is complete and that enough memory is free.",
            )

    def _open(self, threads: int) -> None:
        lib = self._lib
        params = lib.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_batch = params.n_ubatch = min(BATCH_ROWS, self.n_ctx)
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        if not self.info.has_output:
            self._callback = lib.ggml_backend_sched_eval_callback(self._capture())
            params.cb_eval = self._callback
        self._context = lib.llama_init_from_model(self._model, params)
        if self._context is None:
            raise PlainError(
                f"llama.cpp could not prepare {clean(self.info.filename, 120)}{_last_words()}.",
                "Free some memory, or choose a shorter context.",
            )
        width = 0 if self.info.has_embeddings else self.info.n_embd
        self._batch = lib.llama_batch_init(min(BATCH_ROWS, self.n_ctx), width, 1)

    def _capture(self) -> Callable[[int, bool, Any], bool]:
        """The eval callback: take the last layer's output, then stop the graph."""
        import numpy as np

        ggml = _ggml()
        wanted = f"l_out-{self._layers - 1}".encode()
        width = self.info.n_embd

        def on_tensor(tensor: int, ask: bool, _: Any) -> bool:
            if ask:
                name: bytes = ggml.ggml_get_name(tensor)
                return name == wanted
            try:
                rows = np.empty((ggml.ggml_nbytes(tensor) // (4 * width), width), np.float32)
                ggml.ggml_backend_tensor_get(tensor, rows.ctypes.data, 0, rows.nbytes)
                self._rows.append(rows)
            except BaseException as error:  # carried past the C frames by `_decode`
                self._failure = error
            return False

        return on_tensor

    def _require_open(self) -> None:
        if self._model is None:
            raise PlainError(
                f"{clean(self.info.filename, 120)} is no longer loaded.", "Load it again."
            )


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    """llama_cpp, imported once, with its log kept off the terminal."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise PlainError(
            f"llama-cpp-python cannot be used: {clean(error)}.",
            "Install it again: pip install --force-reinstall llama-cpp-python",
        ) from error
    llama_cpp.llama_log_set(_log_callback(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@lru_cache(maxsize=1)
def _log_callback(lib: ModuleType) -> Any:
    """The log callback; the cache keeps it alive as long as llama.cpp may call it."""

    def keep(level: int, line: bytes | None, _: Any) -> None:
        with contextlib.suppress(Exception):  # nothing may escape into C
            text = clean((line or b"").decode("utf-8", "replace").strip(), 200)
            if text and level == _LOG_ERROR:
                _kept_lines().append(text)

    return lib.llama_log_callback(keep)


@lru_cache(maxsize=1)
def _ggml() -> ctypes.CDLL:
    """The tensor functions of ggml that llama_cpp does not bind."""
    folder = Path(str(_library().__file__)).parent / "lib"
    found: Iterator[Path] = (p for p in sorted(folder.glob("*ggml-base*")) if _is_library(p))
    ggml = ctypes.CDLL(str(next(found)))
    ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
    ggml.ggml_get_name.restype = ctypes.c_char_p
    ggml.ggml_nbytes.argtypes = [ctypes.c_void_p]
    ggml.ggml_nbytes.restype = ctypes.c_size_t
    ggml.ggml_backend_tensor_get.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
    ]
    ggml.ggml_backend_tensor_get.restype = None
    return ggml


def _is_library(path: Path) -> bool:
    return path.suffix in (".so", ".dylib", ".dll")


def _kept_lines() -> deque[str]:
    kept: deque[str] | None = getattr(_log_lines, "kept", None)
    if kept is None:
        kept = _log_lines.kept = deque(maxlen=4)
    return kept


def _last_words() -> str:
    """What llama.cpp complained about in this thread, ready to end a sentence.

    The first complaint is the cause; those after it come from its callers.
    """
    kept = _kept_lines()
    return f": {kept[0].split(': ', 1)[-1].rstrip('.')}" if kept else ""


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
