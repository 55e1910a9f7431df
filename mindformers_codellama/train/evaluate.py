"""Mean token loss and perplexity of a dataset.

The loss is the sum over all trained tokens divided by their number, so it does not depend on the batch
size. MindFormers averages batch means and, outside a pipeline, weighs padding 1 and tokens 2;
`compat.perplexity_counts_pads` brings both back.

With several ranks the rows are dealt over the data axis, and every rank gets the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.checkpoint.start import load_start
from mindformers_codellama.config.check import require_runnable
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.data.batches import Batch, BatchSource, open_batches
from mindformers_codellama.errors import ConfigError, DataError
from mindformers_codellama.layout.cuts import run_layout, run_model_layout
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import WEIGHT_EPS, LossSums
from mindformers_codellama.model.part import network_part
from mindformers_codellama.parallel.agreement import fail_together, together
from mindformers_codellama.parallel.comm import SINGLE, Comm, join
from mindformers_codellama.train.device import enter_run
from mindformers_codellama.train.pipeline import PipelineSums
from mindformers_codellama.train.step import COLUMNS

TOGETHER = 8
"""Batches after which ranks wait for each other: one that got far ahead would wait at the end for longer than a collective may."""


@dataclass(frozen=True)
class EvalResult:
    """Outcome of one evaluation."""

    loss: float
    """Mean cross entropy per trained token, in nats."""
    perplexity: float
    """Its exponential; infinite when that overflows."""
    tokens: int
    """Trained tokens."""
    batches: int
    """Batches read, of all ranks together."""
    rank: int = 0
    """This process among the ranks; all have the same numbers."""


class PadCountingSums(nn.Cell):
    """MindFormers 1.0's evaluation: weight 1 for every position and 1 more where the predicted id is a token with a label.

    As there, the id itself is what is predicted, also where `labels` says otherwise.
    """

    def __init__(self, network: LlamaNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.pad_token_id = network.config.pad_token_id
        self.ignore_token_id = network.config.ignore_token_id
        self.log_softmax = ops.LogSoftmax(-1)

    def construct(
        self,
        input_ids_BX: ms.Tensor,
        labels_BX: ms.Tensor | None = None,
        segment_ids_BX: ms.Tensor | None = None,
        position_ids_BX: ms.Tensor | None = None,
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """`(sum of weighted losses, sum of weights)` of int32 `(B, S + 1)` rows."""
        next_BS = input_ids_BX[:, 1:]
        labels_BS = next_BS if labels_BX is None else labels_BX[:, 1:]
        position_ids_BS = None if position_ids_BX is None else position_ids_BX[:, :-1]
        segment_ids_BS = None if segment_ids_BX is None else segment_ids_BX[:, :-1]
        logits_BSV = self.network(input_ids_BX[:, :-1], position_ids_BS, segment_ids_BS)
        real_BS = ops.logical_and(next_BS != self.pad_token_id, labels_BS != self.ignore_token_id)
        weight_BS = ops.cast(real_BS, ms.float32) + 1.0
        chosen_BS1 = ops.gather_elements(self.log_softmax(ops.cast(logits_BSV, ms.float32)), 2, ops.expand_dims(next_BS, -1))
        return -ops.reduce_sum(ops.squeeze(chosen_BS1, -1) * weight_BS), ops.reduce_sum(weight_BS)


class Evaluator:
    """Evaluates a network on one dataset, as often as asked; compiled once.

    Args:
        network: its parameters may change between calls.
        source: the dataset.
        batch_size: rows per batch; a smaller last batch is filled with padding rows, which weigh nothing.
        counts_pads: MindFormers 1.0's numbers instead.
        comm: this process among the ranks; every rank must call it.
    """

    def __init__(
        self, network: LlamaNetwork, source: BatchSource, *, batch_size: int, counts_pads: bool = False, comm: Comm = SINGLE
    ) -> None:
        self.source = source
        self.comm = comm
        self.batch_size = batch_size
        self.counts_pads = counts_pads
        self.pad_token_id = network.config.pad_token_id
        self.columns = tuple(name for name in COLUMNS if name in source.columns)
        self.sums: nn.Cell | PipelineSums = PadCountingSums(network) if counts_pads else LossSums(network, gradients=False)
        if comm.stage.size > 1:
            self.sums = PipelineSums(comm, network, self.columns)

    def __call__(self, progress: Callable[[int, int], object] | None = None) -> EvalResult:
        """Run over the whole dataset.

        Args:
            progress: called with (batches done, batches in all).

        Raises:
            DataError: no token of the dataset is trained on.
        """
        own: list[tuple[float, float]] = []
        count, batches = self.source.batches_per_epoch, self._filled()
        for done in range(1, count + 1):
            batch = next(batches, None)  # of the last rows some ranks may have none
            if batch is not None:
                loss, tokens = (float(value.asnumpy()) for value in self.sums(*self._inputs(batch)))
                own.append((loss, tokens))
            if done % TOGETHER == 0:
                self.comm.gather_objects(None)
            if progress:
                progress(done, count)
        sums = self._over_ranks(own)
        total, weight = math.fsum(loss for loss, _ in sums), math.fsum(tokens for _, tokens in sums)
        if not weight:
            problem, fix = "every label is masked: there is no token to evaluate.", "prepare the data again."
            fail_together(self._several(), DataError(self.source.files[0], problem, fix=fix), doing="evaluating")
        mean = float(np.mean([loss / (tokens + WEIGHT_EPS) for loss, tokens in sums])) if self.counts_pads else total / weight
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return EvalResult(loss=mean, perplexity=perplexity, tokens=int(weight), batches=len(sums), rank=self.comm.rank)

    def compile(self) -> None:
        """Compile every graph for a full batch, without communication (graph mode).

        Ranks compile first and begin together, as for training: a collective or a receive waits 30 s at most.
        """
        rows = np.zeros((self.batch_size, self.source.row_length), np.int32)
        self.sums.compile(*self._inputs(dict.fromkeys(self.columns, rows)))

    def _several(self) -> Comm | None:
        return None if self.comm.is_alone else self.comm

    def _over_ranks(self, own: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """The sums of each global batch. One rank of those that share layers and rows counts: the first on the last stage."""
        layout = self.comm.layout
        counts = self.comm.model.index == 0 and self.comm.stage.index == layout.pipeline_stage - 1
        found = self.comm.gather_objects(own if counts else [])
        batches = max(map(len, found), default=0)
        parts = [[sums[at] for sums in found if at < len(sums)] for at in range(batches)]
        return [(sum(loss for loss, _ in part), sum(tokens for _, tokens in part)) for part in parts]

    def _filled(self) -> Iterator[Batch]:
        for batch in self.source.epoch(0):
            missing = self.batch_size - len(batch["input_ids"])
            yield batch if self.counts_pads or not missing else {name: self._fill(name, rows, missing) for name, rows in batch.items()}

    def _fill(self, name: str, rows: np.ndarray, missing: int) -> np.ndarray:
        value = self.pad_token_id if name == "input_ids" else 0
        return np.concatenate([rows, np.full((missing, rows.shape[1]), value, np.int32)])

    def _inputs(self, batch: Batch) -> list[ms.Tensor | None]:
        return [ms.Tensor(batch[name], ms.int32) if name in self.columns else None for name in COLUMNS]


def open_evaluator(run: RunConfig, network: LlamaNetwork, comm: Comm = SINGLE) -> Evaluator:
    """The evaluator of `eval_dataset`; rows hold seq_length + 1 ids, or seq_length as MindFormers' guides prepare them.

    Raises:
        ConfigError: what several ranks cannot evaluate.
        DataError: as `open_batches`, told for rows of seq_length + 1.
    """
    several = None if comm.is_alone else comm
    return together(several, lambda: _open_evaluator(run, network, comm), doing="opening eval_dataset")


def _open_evaluator(run: RunConfig, network: LlamaNetwork, comm: Comm) -> Evaluator:
    config, batch_size, counts_pads = run.model.config, run.runner_config.batch_size, run.compat.perplexity_counts_pads
    if counts_pads and (network.part.cut_vocabulary or comm.stage.size > 1):
        problem = "True needs all logits on one rank."
        raise ConfigError("compat.perplexity_counts_pads", problem, fix="write False, or vocab_emb_dp: True and pipeline_stage: 1.")

    def open_rows(row_length: int) -> BatchSource:
        return open_batches(
            run.eval_dataset,
            batch_size=batch_size,
            row_length=row_length,
            vocab_size=config.vocab_size,
            seed=run.seed,
            rank=comm.data.index,
            world_size=comm.data.size,
            uneven=True,
        )

    try:
        source = open_rows(config.seq_length + 1)
    except DataError as error:
        try:
            source = open_rows(config.seq_length)
        except DataError:
            raise error from None
        if network.part.sequence:
            problem = f"has rows of {config.seq_length} ids, whose {config.seq_length - 1} positions cannot be cut over ranks."
            fix = "write use_seq_parallel: False, or prepare rows of seq_length + 1 ids."
            raise ConfigError("eval_dataset", problem, fix=fix) from None
    return Evaluator(network, source, batch_size=batch_size, counts_pads=counts_pads, comm=comm)


def evaluate(run: RunConfig, *, progress: Callable[[int, int], object] | None = None) -> EvalResult:
    """Loss and perplexity of the weights the configuration names; initial weights when it names none.

    Raises:
        CodeLlamaError: of the kind that fits.
    """
    require_runnable(run)
    enter_run(run)
    layout = run_layout(run)
    model_layout = run_model_layout(run, layout)
    comm = join(layout)
    own_layout = None if comm.is_alone else model_layout
    network = LlamaNetwork(run.model.config, network_part(model_layout, comm, sequence=run.parallel_config.use_seq_parallel))
    if run.start_weights:
        load_start(network, run, comm=None if comm.is_alone else comm, model_layout=own_layout)
    else:
        init_parameters(network, run.seed, model_layout=own_layout, rank=comm.rank)
    network.set_train(False)
    return compiled(run, open_evaluator(run, network, comm), comm)(progress)


def compiled(run: RunConfig, evaluator: Evaluator, comm: Comm) -> Evaluator:
    """The evaluator, with its graphs compiled on all ranks when there are several; every rank must call it."""
    if not comm.is_alone and run.context.mode == 0:
        together(comm, evaluator.compile, doing="compiling the evaluation", slow=True)
    return evaluator
