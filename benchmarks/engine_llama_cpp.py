"""llama.cpp through the low-level API of llama-cpp-python, so that Python costs it one call per step. Run by worker.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np

BATCH = 512
"""n_batch and n_ubatch: tokens read at once."""


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp reports every tensor; what fails is seen in return codes."""


class LlamaCpp:
    """One model and one context of `rows` sequences, KV cache in float16 (llama.cpp's default), greedy."""

    def __init__(self, path: Path, *, rows: int, positions: int, threads: int) -> None:
        llama_cpp.llama_log_set(_quiet, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = -(-positions // 256) * 256 * rows  # shared out evenly among the sequences
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.length = 0

    @property
    def version(self) -> str:
        return f"llama-cpp-python {llama_cpp.__version__}"

    def prefill(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Forget everything, read prompts of equal length; int32 `(B,)`, the most likely next token of each."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        rows, length = tokens_BT.shape
        self.length = length
        found = []
        for row in range(rows):
            for start in range(0, length, BATCH):
                piece = tokens_BT[row, start : start + BATCH]
                for place, token in enumerate(piece):
                    self._put(place, int(token), start + place, row, wanted=start + place == length - 1)
                self._decode(len(piece))
            found.append(self._best(len(piece) - 1))
        return np.asarray(found, np.int32)

    def step(self, tokens_B: np.ndarray) -> np.ndarray:
        """One more token of every row; int32 `(B,)`."""
        for row, token in enumerate(tokens_B):
            self._put(row, int(token), self.length, row, wanted=True)
        self._decode(len(tokens_B))
        self.length += 1
        return np.asarray([self._best(row) for row in range(len(tokens_B))], np.int32)

    def _put(self, place: int, token: int, position: int, row: int, *, wanted: bool) -> None:
        self.batch.token[place] = token
        self.batch.pos[place] = position
        self.batch.n_seq_id[place] = 1
        self.batch.seq_id[place][0] = row
        self.batch.logits[place] = wanted

    def _decode(self, tokens: int) -> None:
        self.batch.n_tokens = tokens
        code = llama_cpp.llama_decode(self.context, self.batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")

    def _best(self, place: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, place)
        return int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())
