"""A training step of this package, with its kernels (`ours`) or with plain operators (`ours-plain`). Run by worker.py."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from jobs import PLAIN, Job, Unavailable
from random_weights import prompt_ids
from shapes import NORM_EPS, ROPE_THETA, SHAPES

from mindformers_codellama import __version__
from mindformers_codellama.checkpoint.start import load_weights
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.errors import CodeLlamaError
from mindformers_codellama.kernels.choose import VARIABLE, choose_kernels
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.runtime.dtypes import dtype_findings
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.step import TrainStep

WARM_STEPS = 2


class OurTraining:
    """Network, AdamW and a step over `(B, S + 1)` ids.

    Args:
        job: engine, form (`bfloat16` keeps weights and states in fp32), shape.
        rate: learning rate; a step may be given another.
        weights: folder to begin from; None draws weights of our own.
    """

    def __init__(self, job: Job, rate: float = 1e-4, weights: Path | None = None) -> None:
        if job.engine == PLAIN:
            os.environ.pop(VARIABLE, None)  # which would win
        enter_context(ContextSection(device_target="CPU", runtime_num_threads=job.threads))
        sizes = SHAPES[job.shape].fields()
        positions = {"seq_length": job.tokens, "max_position": job.tokens}
        config = ModelConfig(**sizes, **positions, rms_norm_eps=NORM_EPS, rope_theta=ROPE_THETA, compute_dtype=job.form)
        level = choose_kernels("off" if job.engine == PLAIN else "auto", threads=job.threads)
        refused: list[CodeLlamaError] = dtype_findings(config, "CPU", kernels=level is not None)
        if refused:
            raise Unavailable(str(refused[0]))
        self.network = LlamaNetwork(config)
        if weights is None:
            init_parameters(self.network, 0)
        else:
            load_weights(self.network, weights)
        update = AdamUpdate(self.network.trainable_params(), AdamSettings(type="AdamW", beta1=0.9, beta2=0.95, eps=1e-8))
        self._step = TrainStep(TrainingLoss(self.network), update, columns=("input_ids",))
        self._scale = LossScale(value=1.0)
        self._rate = rate
        self._updates = 0

    def step(self, ids_BT: np.ndarray, rate: float | None = None) -> float:
        """One update; the loss before it."""
        rate = self._rate if rate is None else rate
        done = self._step([{"input_ids": ids_BT}], updates=self._updates, learning_rate=rate, scale=self._scale)
        self._updates += 1
        return done.loss


def measure_training(job: Job) -> dict[str, object]:
    """Tokens per second, the median over `job.steps` steps after two that warm up (the first compiles)."""
    training = OurTraining(job)
    ids = prompt_ids(SHAPES[job.shape], job.rows, job.tokens + 1)
    times, losses = [], []
    for _ in range(WARM_STEPS + job.steps):
        start = time.perf_counter()
        losses.append(training.step(ids))
        times.append(time.perf_counter() - start)
    return {
        "training_tokens_per_second": job.rows * job.tokens / statistics.median(times[WARM_STEPS:]),
        "first_step_seconds": times[0],
        "losses": losses,
        "version": f"mindformers_codellama {__version__}, MindSpore {ms.__version__}",
    }
