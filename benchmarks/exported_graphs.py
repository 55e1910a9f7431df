"""The engine `graph` beside the live model: from an idle file to the first token, and tokens per second afterwards.

    python benchmarks/exported_graphs.py EXPORT_DIR CHECKPOINT [--pairs 3] [--prompt 16] [--steps 32]

EXPORT_DIR is of `codellama export CHECKPOINT` (a directory that says its configuration), with the same seq_length. Every sample
is a fresh process; the sides take turns: `graph` (exported), `plain` (the same operators, live), `kernels` (the default, live).
A ratio above 1 is the exported graph being faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

SIDES = ("graph", "plain", "kernels")


def sample(arguments: argparse.Namespace, side: str) -> dict[str, float]:
    """Figures of one fresh process."""
    words = [arguments.export, arguments.checkpoint, "--side", side, "--prompt", arguments.prompt, "--steps", arguments.steps]
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of this process."""
    import numpy as np

    from mindformers_codellama.config.sections_parallel import ContextSection
    from mindformers_codellama.kernels.choose import choose_kernels
    from mindformers_codellama.mindir.decoder import MindIRDecoder
    from mindformers_codellama.mindir.graph_engine import GraphEngine
    from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM
    from mindformers_codellama.runtime.context import enter_context

    started = time.perf_counter()
    enter_context(ContextSection(device_target="CPU"))
    if arguments.side == "graph":
        engine = GraphEngine(arguments.export)
        engine.load()
        decoder = MindIRDecoder(engine)
    else:
        choose_kernels("off" if arguments.side == "plain" else "auto")
        decoder = LlamaForCausalLM.from_pretrained(arguments.checkpoint).decoder(use_past=True)
    ids_BT = np.random.default_rng(0).integers(3, decoder.vocab_size, (1, arguments.prompt)).astype(np.int32)
    tokens_B = decoder.prefill(ids_BT, np.array([arguments.prompt], np.int32)).argmax(-1).astype(np.int32)
    first = time.perf_counter()
    for _ in range(3):  # graphs of a step are compiled here
        tokens_B = decoder.step(tokens_B).argmax(-1).astype(np.int32)
    warm = time.perf_counter()
    for _ in range(arguments.steps):
        tokens_B = decoder.step(tokens_B).argmax(-1).astype(np.int32)
    done = time.perf_counter()
    return {"seconds_to_first_token": first - started, "tokens_per_second": arguments.steps / (done - warm)}


def report(samples: dict[str, list[dict[str, float]]]) -> str:
    """Medians, and the exported graph against each live side."""
    lines = [f"{'side':10}{'first token, s':>16}{'tokens/s':>12}"]
    middle = {side: {name: statistics.median(one[name] for one in found) for name in found[0]} for side, found in samples.items() if found}
    for side, found in middle.items():
        lines.append(f"{side:10}{found['seconds_to_first_token']:16.2f}{found['tokens_per_second']:12.1f}")
    graph = middle["graph"]
    for side in SIDES[1:]:
        start = middle[side]["seconds_to_first_token"] / graph["seconds_to_first_token"]
        rate = graph["tokens_per_second"] / middle[side]["tokens_per_second"]
        lines.append(f"graph / {side}: first token {start:.2f}, tokens per second {rate:.2f} (wanted: 0.90)")
    return "\n".join(lines)


def main() -> None:
    """Measure one side, or all in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, metavar="EXPORT_DIR")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--pairs", type=int, default=3, help="samples of every side (3)")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt (16)")
    parser.add_argument("--steps", type=int, default=32, help="tokens that are timed (32)")
    parser.add_argument("--side", choices=SIDES, help="measure one side in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    samples: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.pairs):
        for side in SIDES:
            samples[side].append(sample(arguments, side))
    print(report(samples))


if __name__ == "__main__":
    main()
