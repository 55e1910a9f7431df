"""From an idle file to the first token of an answer. The process is fresh; the file is in the page cache. Run by worker.py."""

from __future__ import annotations

import time
from importlib import import_module

from engines import opener
from jobs import LLAMA_CPP, Job
from random_weights import prompt_ids
from shapes import SHAPES

PROMPT = 16
"""Tokens read before the first answer."""


def measure_first_token(job: Job, started: float) -> dict[str, object]:
    """Seconds of imports, of loading, and from the start of loading to the first token.

    Args:
        job: engine, shape and form.
        started: `time.perf_counter()` at the beginning of the process.
    """
    import_module("engine_llama_cpp" if job.engine == LLAMA_CPP else "engine_ours")
    prompt = prompt_ids(SHAPES[job.shape], 1, PROMPT)
    imported = time.perf_counter()
    engine = opener(job)(1, PROMPT + 64)
    loaded = time.perf_counter()
    engine.prefill(prompt)
    done = time.perf_counter()
    return {
        "import_seconds": imported - started,
        "load_seconds": loaded - imported,
        "load_to_first_token_seconds": done - imported,
        "process_to_first_token_seconds": done - started,
        "version": engine.version,
    }
