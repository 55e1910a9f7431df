"""One measurement of this package (CPU, fp32, plain MindSpore operators), printed as one JSON line. Run by compare.py."""

from __future__ import annotations

import time

import mindspore as ms
import numpy as np
from workload import run_worker, shape_fields

from mindformers_codellama import __version__
from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.step import TrainStep


def build_network(shape: str, positions: int) -> LlamaNetwork:
    network = LlamaNetwork(ModelConfig(**shape_fields(shape), seq_length=positions, max_position=positions))
    init_parameters(network, 0)
    return network


def measure_decode(shape: str, prompt: int, tokens: int) -> dict[str, float]:
    """Tokens per second of greedy decode after the prompt, batch 1, and seconds of the prompt alone."""
    decoder = MindSporeDecoder(build_network(shape, prompt + tokens + 1))
    ids = np.random.default_rng(0).integers(3, 1000, (1, prompt)).astype(np.int32)
    lengths = np.array([prompt], np.int32)
    decoder.step(decoder.prefill(ids, lengths).argmax(-1).astype(np.int32))  # warm-up compiles both graphs
    start = time.perf_counter()
    token = decoder.prefill(ids, lengths).argmax(-1).astype(np.int32)
    prefill = time.perf_counter() - start
    for _ in range(3):
        token = decoder.step(token).argmax(-1).astype(np.int32)
    start = time.perf_counter()
    for _ in range(tokens - 4):
        token = decoder.step(token).argmax(-1).astype(np.int32)
    decode = time.perf_counter() - start
    return {"prefill_seconds": prefill, "decode_tokens_per_second": (tokens - 4) / decode}


def measure_training(shape: str, batch: int, seq_length: int, steps: int) -> dict[str, float]:
    """Tokens per second of forward, backward and AdamW, fp32; the first two steps (one compiles) are not counted."""
    network = build_network(shape, seq_length)
    update = AdamUpdate(network.trainable_params(), AdamSettings(type="AdamW"))
    step = TrainStep(TrainingLoss(network), update, columns=("input_ids",))
    scale = LossScale(value=1.0)
    ids = np.random.default_rng(0).integers(3, 1000, (batch, seq_length + 1)).astype(np.int32)
    times = []
    for done in range(steps + 2):
        start = time.perf_counter()
        step([{"input_ids": ids}], updates=done, learning_rate=1e-4, scale=scale)
        times.append(time.perf_counter() - start)
    return {"training_tokens_per_second": batch * seq_length / sorted(times[2:])[steps // 2]}


if __name__ == "__main__":
    run_worker(
        __doc__,
        version=f"mindformers_codellama {__version__}, MindSpore {ms.__version__}",
        set_threads=lambda threads: enter_context(ContextSection(device_target="CPU", runtime_num_threads=threads)),
        decode=measure_decode,
        training=measure_training,
    )
