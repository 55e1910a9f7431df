"""What the workers of compare.py share: model shapes, arguments, and the one JSON line they print."""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable

# name: (V, D, L, N, K, F). 15m is the stories15M shape of llama2.c; 125m is the usual small GPT size in Llama form.
SHAPES = {
    "tiny": (2048, 192, 4, 6, 2, 512),
    "15m": (32000, 288, 6, 6, 6, 768),
    "125m": (32000, 768, 12, 12, 12, 2048),
}


def shape_fields(name: str) -> dict[str, int]:
    """The shape by field name, as both `ModelConfig` and `transformers.LlamaConfig` understand most of them."""
    keys = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size")
    return dict(zip(keys, SHAPES[name], strict=True))


def run_worker(
    description: str,
    *,
    version: str,
    set_threads: Callable[[int], object],
    decode: Callable[[str, int, int], dict[str, float]],
    training: Callable[[str, int, int, int], dict[str, float]],
) -> None:
    """Read the arguments, make one measurement, print it with the peak memory of this process.

    Args:
        description: shown by --help.
        version: what was measured.
        set_threads: called with the number of threads before anything else.
        decode: (shape, prompt tokens, new tokens) to figures.
        training: (shape, rows, tokens per row, counted steps) to figures.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("work", choices=("generate", "train"))
    parser.add_argument("--shape", default="15m", choices=SHAPES)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    set_threads(args.threads)
    if args.work == "generate":
        result = decode(args.shape, args.prompt, args.tokens)
    else:
        result = training(args.shape, args.batch, args.seq_length, args.steps)
    result["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result | {"version": version}))
