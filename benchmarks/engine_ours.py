"""This package: the fused decoder (`ours`), or plain MindSpore operators (`ours-plain`). Run by worker.py."""

from __future__ import annotations

import os
from pathlib import Path

import mindspore as ms
import numpy as np
from jobs import PLAIN, Job, Unavailable
from shapes import our_folder

from mindformers_codellama import __version__
from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.kernels.choose import VARIABLE, choose_kernels
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM
from mindformers_codellama.runtime.context import enter_context


def open_decoder(job: Job) -> Decoder:
    """The decoder of a job, as any program opens it.

    Raises:
        Unavailable: a form or a decoder this checkout does not have, or model files that are missing.
    """
    folder = Path(job.models) / our_folder(job.shape, job.form)
    if job.engine == PLAIN and job.form != "float32":
        raise Unavailable("plain operators compute in float32 on CPU")
    if not folder.exists():
        raise Unavailable(f"{folder.name} is not in the folder of models")
    decoder = LlamaForCausalLM.from_pretrained(folder).decoder(use_past=True)
    is_plain = isinstance(decoder, MindSporeDecoder)
    if is_plain != (job.engine == PLAIN):
        raise Unavailable(f"{job.form} weights are decoded with {'plain operators' if is_plain else 'kernels'} here")
    return decoder


class Ours:
    """One decoder, greedy."""

    def __init__(self, job: Job) -> None:
        if job.engine == PLAIN:
            os.environ.pop(VARIABLE, None)  # which would win
        enter_context(ContextSection(device_target="CPU", runtime_num_threads=job.threads))
        choose_kernels("off" if job.engine == PLAIN else "auto", threads=job.threads)
        self.decoder = open_decoder(job)

    @property
    def version(self) -> str:
        return f"mindformers_codellama {__version__}, MindSpore {ms.__version__}"

    def prefill(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Forget everything, read prompts of equal length; int32 `(B,)`, the most likely next token of each."""
        lengths_B = np.full(len(tokens_BT), tokens_BT.shape[1], np.int32)
        return self.decoder.prefill(tokens_BT, lengths_B).argmax(-1).astype(np.int32)

    def step(self, tokens_B: np.ndarray) -> np.ndarray:
        """One more token of every row; int32 `(B,)`."""
        return self.decoder.step(tokens_B).argmax(-1).astype(np.int32)
