"""A training step of transformers on torch (CPU): eager or torch.compile, fp32 or bf16 autocast. Run by worker.py."""

from __future__ import annotations

import contextlib
import statistics
import time

import torch
import transformers
from engine_transformers import build_model
from jobs import COMPILED, Job
from random_weights import prompt_ids
from shapes import SHAPES

WARM_STEPS = 2


class TorchTraining:
    """Model, AdamW (torch's fused one, its quickest) and a step over `(B, S + 1)` ids.

    Args:
        job: engine, form (`bfloat16` is autocast over fp32 weights), shape.
        rate: learning rate; a step may be given another.
    """

    def __init__(self, job: Job, rate: float = 1e-4) -> None:
        torch.set_num_threads(job.threads)
        self.model = build_model(SHAPES[job.shape], job.tokens, torch.float32).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
        self.autocast = job.form == "bfloat16"
        self.forward = torch.compile(self._loss) if job.engine == COMPILED else self._loss

    def _loss(self, ids_BS: torch.Tensor, next_BS: torch.Tensor) -> torch.Tensor:
        return self.model(ids_BS, labels=next_BS, shift_labels=next_BS, use_cache=False).loss

    def step(self, ids_BT: torch.Tensor, rate: float | None = None) -> float:
        """One update; the loss before it."""
        if rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext():
            loss = self.forward(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def measure_training(job: Job) -> dict[str, object]:
    """Tokens per second, the median over `job.steps` steps after two that warm up (the first compiles)."""
    training = TorchTraining(job)
    ids = torch.from_numpy(prompt_ids(SHAPES[job.shape], job.rows, job.tokens + 1)).long()
    times, losses = [], []
    for _ in range(WARM_STEPS + job.steps):
        start = time.perf_counter()
        losses.append(training.step(ids))
        times.append(time.perf_counter() - start)
    return {
        "training_tokens_per_second": job.rows * job.tokens / statistics.median(times[WARM_STEPS:]),
        "first_step_seconds": times[0],
        "losses": losses,
        "version": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
