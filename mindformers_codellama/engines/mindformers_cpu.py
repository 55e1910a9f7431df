"""What MindFormers 1.9 needs to run on a CPU. Imported only there, and only after MindFormers.

Two operators have no CPU kernel, and each is replaced at the seam MindFormers offers: the overflow check of its training
step, through its registry of wrappers, and the choice of the most likely token, which is an attribute of its network.
Everything else is MindFormers' own.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.wrapper import MFTrainOneStepCell
from mindspore.nn.wrap.loss_scale import _ascend_grad_overflow

from mindformers_codellama.engines.mindformers_keys import CPU_STEP


class ByValueTrainOneStepCell(MFTrainOneStepCell):
    """MindFormers' training step; overflow is a gradient that is not finite, rather than the status register of an NPU."""

    def get_overflow_status(self, status: Any, compute_output: Any) -> Any:
        """Whether any gradient is not finite: the way MindSpore goes on newer NPUs (infnan mode)."""
        return self._get_distributed_overflow_status_on_infnan_mode(_ascend_grad_overflow, compute_output)


def prepare_cpu(task_trainer: Any) -> None:
    """Register the training step, and let networks of this trainer choose tokens with numpy."""
    if not MindFormerRegister.is_exist(MindFormerModuleType.WRAPPER, CPU_STEP):
        MindFormerRegister.register_cls(ByValueTrainOneStepCell, MindFormerModuleType.WRAPPER)
    create_network = task_trainer.create_network

    def create(default_args: Any = None) -> Any:
        network = create_network(default_args=default_args)
        network.argmax = most_likely
        return network

    task_trainer.create_network = create


def most_likely(logits: ms.Tensor, dim: int) -> ms.Tensor:
    """Place of the largest logit, as `mint.argmax`, which has no CPU kernel."""
    return ms.Tensor(logits.asnumpy().argmax(axis=dim))
