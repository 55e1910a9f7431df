"""One stage of a pipeline: compiled graphs for its layers, and the exchange with its neighbours between them.

A stage keeps only its input of a micro batch in flight and computes its layers again in the backward graph (sending
and receiving cannot be inside of a graph), so a forward is paid twice on every stage but the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import HeadLoss
from mindformers_codellama.model.part import normed_dtype, stage_tensor
from mindformers_codellama.parallel.comm import Axis, Comm
from mindformers_codellama.train.pipeline_schedule import Action, one_forward_one_backward
from mindformers_codellama.train.shared_loss import TokenMean
from mindformers_codellama.train.step import COLUMNS


class StageRun(nn.Cell):
    """The layers of a stage on rows of S + 1 tokens, whose columns come in the order of `COLUMNS`."""

    def __init__(self, network: LlamaNetwork, columns: tuple[str, ...]) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.at_labels, self.at_segments, self.at_positions = (columns.index(name) if name in columns else -1 for name in COLUMNS[1:])

    def construct(self, hidden_BSD: ms.Tensor, *columns: ms.Tensor) -> ms.Tensor:
        """Hidden states for the next stage, or for the head; the first stage does not look at `hidden_BSD`."""
        segments = columns[self.at_segments][:, :-1] if self.at_segments >= 0 else None
        positions = columns[self.at_positions][:, :-1] if self.at_positions >= 0 else None
        return self.network.run_layers(columns[0][:, :-1], hidden_BSD, positions, segments)


class StageSums(nn.Cell):
    """`(sum of losses, sum of weights)` of a part of the rows, from what the last stage gives."""

    def __init__(self, network: LlamaNetwork, columns: tuple[str, ...], parts: int = 1, *, gradients: bool = True) -> None:
        super().__init__(auto_prefix=False)
        self.head_loss = HeadLoss(network, gradients=gradients)
        self.at_labels = columns.index("labels") if "labels" in columns else 0
        self.at_segments = columns.index("segment_ids") if "segment_ids" in columns else -1
        self.parts = parts

    def construct(self, hidden_BSD: ms.Tensor, part: int, *columns: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """float32 scalars, of every `parts`-th row from `part`."""
        tokens_BS = columns[0][part :: self.parts, :-1]
        labels_BS = columns[self.at_labels][part :: self.parts, 1:]
        same_segment_BS = None
        if self.at_segments >= 0:
            segments_BX = columns[self.at_segments][part :: self.parts]
            same_segment_BS = segments_BX[:, :-1] == segments_BX[:, 1:]
        own_BSD = hidden_BSD if self.parts == 1 else hidden_BSD[part :: self.parts]
        return self.head_loss(own_BSD, tokens_BS, labels_BS, same_segment_BS)


class StageObjective(nn.Cell):
    """A scalar whose gradient is what the stage's backward has to give, and the loss.

    On the last stage the scaled loss; elsewhere the hidden states times the gradient that came back for them.

    Args:
        run: the stage.
        sums: None except on the last stage.
        axis: the data axis the loss is a mean over; alone, of this rank's rows only.
        parts: parts of a micro batch whose mean losses are averaged (`micro_batch_interleave_num`).
    """

    def __init__(self, run: StageRun, sums: StageSums | None, axis: Axis, parts: int) -> None:
        super().__init__(auto_prefix=False)
        self.run_layers = run
        self.is_last = sums is not None
        self.parts = parts
        if sums is not None:
            self.sums = sums
            self.mean = TokenMean(axis)

    def construct(self, hidden_BSD: ms.Tensor, back: ms.Tensor, *columns: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """`back` is the loss scale on the last stage, elsewhere the gradient of what `StageRun` gives."""
        out = self.run_layers(hidden_BSD, *columns)
        if not self.is_last:
            product = ops.cast(out, ms.float32) * ops.cast(ops.stop_gradient(back), ms.float32)
            return ops.reduce_sum(product), ops.zeros((), ms.float32)
        loss = self.share(out, 0, columns)
        for part in range(1, self.parts):
            # after the part before: both have collectives, which all ranks must call in one order
            loss = loss + self.share(ops.depend(out, loss), part, columns)
        loss = loss / self.parts
        return loss * back, loss

    def share(self, hidden_BSD: ms.Tensor, part: int, columns: tuple[ms.Tensor, ...]) -> ms.Tensor:
        """This rank's share of the mean loss of one part."""
        loss, weight = self.sums(hidden_BSD, part, *columns)
        return self.mean(loss, weight)


class StageStep(nn.Cell):
    """Forward and backward of a stage; gradients are added to `accu_grads.*`."""

    def __init__(self, objective: StageObjective, parameters: Sequence[ms.Parameter], sums: ms.ParameterTuple, *, first: bool) -> None:
        super().__init__(auto_prefix=False)
        self.first = first
        self.gradient = ops.value_and_grad(objective, None if first else 0, ms.ParameterTuple(parameters), has_aux=True)
        self.sums = sums
        self.count = len(sums)

    def construct(self, hidden_BSD: ms.Tensor, back: ms.Tensor, *columns: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """The loss (0 except on the last stage), and the gradient of `hidden_BSD` (without meaning on the first)."""
        (_, loss), gradients = self.gradient(hidden_BSD, back, *columns)
        back_BSD = hidden_BSD
        if not self.first:
            back_BSD, gradients = gradients
        for i in range(self.count):
            loss = ops.depend(loss, ops.assign_add(self.sums[i], ops.cast(gradients[i], ms.float32)))
        return loss, back_BSD


class Neighbours:
    """What a stage sends and receives: hidden states and their gradients, of one shape."""

    def __init__(self, comm: Comm, network: LlamaNetwork) -> None:
        self.comm, self.network = comm, network
        ranks, index = comm.layout.group("stage", comm.rank), comm.stage.index
        self.before = ranks[index - 1] if index else None
        self.behind = ranks[index + 1] if index + 1 < len(ranks) else None

    def form(self, columns: Sequence[ms.Tensor]) -> tuple[tuple[int, int, int], ms.Type]:
        """Shape and type of the hidden states of a micro batch with these columns."""
        rows, length = columns[0].shape
        return stage_tensor(self.network.config, self.network.part, rows, length - 1)

    def receive(self, rank: int | None, columns: Sequence[ms.Tensor]) -> ms.Tensor:
        """Hidden states (or their gradient) of a micro batch with these columns."""
        assert rank is not None, "no neighbour on this side"
        shape, dtype = self.form(columns)
        return self.comm.receive(shape, dtype, rank)

    def send(self, tensor: ms.Tensor, rank: int | None) -> None:
        """Give a neighbour what it receives."""
        assert rank is not None, "no neighbour on this side"
        self.comm.send(tensor, rank)


class Pipeline:
    """An `rank_step.Accumulator` over the stages of a pipeline.

    Args:
        comm: this process among the ranks.
        network: the layers of this stage.
        parameters: of the stage.
        sums: their `accu_grads.*`.
        columns: as of `StageRun`.
        axis: the data axis the loss is a mean over.
        parts: parts of a micro batch whose mean losses are averaged.
    """

    def __init__(  # noqa: PLR0913 - one value per fact, all named
        self,
        comm: Comm,
        network: LlamaNetwork,
        *,
        parameters: Sequence[ms.Parameter],
        sums: ms.ParameterTuple,
        columns: tuple[str, ...],
        axis: Axis,
        parts: int,
    ) -> None:
        self.stage, self.stages = comm.stage.index, comm.stage.size
        self.is_first, self.is_last = network.part.first, network.part.last
        self.neighbours = Neighbours(comm, network)
        run = StageRun(network, columns)
        self.forward = run
        objective = StageObjective(run, StageSums(network, columns, parts) if self.is_last else None, axis, parts)
        self.step = StageStep(objective, parameters, sums, first=self.is_first)

    def __call__(self, batches: Sequence[list[ms.Tensor]], scale: ms.Tensor) -> float:
        """As `rank_step.Accumulator`; 0 except on the last stage."""
        flight = Flight(batches, scale)
        for action in one_forward_one_backward(self.stage, self.stages, len(batches)):
            self._act(action, flight)
        return float(np.mean([loss.asnumpy() for loss in flight.losses], dtype=np.float64)) if self.is_last else 0.0

    def compile(self, columns: list[ms.Tensor], scale: ms.Tensor) -> None:
        """As `rank_step.Accumulator`."""
        shape, dtype = self.neighbours.form(columns)
        between = ms.Tensor(np.zeros(shape, np.float32)).astype(dtype)
        hidden = Flight([], scale).nothing if self.is_first else between
        if not self.is_last:
            self.forward.compile(hidden, *columns)
        self.step.compile(hidden, scale if self.is_last else between, *columns)

    def _act(self, action: Action, flight: Flight) -> None:
        kind, micro = action
        columns, near = flight.batches[micro], self.neighbours
        if kind == "receive_forward":
            flight.inputs[micro] = near.receive(near.before, columns)
        elif kind == "forward":
            if not self.is_last:  # the last stage has its backward at once, which computes the layers anyway
                flight.outputs[micro] = self.forward(flight.inputs.get(micro, flight.nothing), *columns)
        elif kind == "send_forward":
            near.send(flight.outputs.pop(micro), near.behind)
        elif kind == "receive_backward":
            flight.backs[micro] = near.receive(near.behind, columns)
        elif kind == "backward":
            back = flight.scale if self.is_last else flight.backs.pop(micro)
            loss, flight.outputs[micro] = self.step(flight.inputs.pop(micro, flight.nothing), back, *columns)
            flight.losses.append(loss)
        else:
            near.send(flight.outputs.pop(micro), near.before)


class Flight:
    """What a stage holds during one step, by micro batch."""

    def __init__(self, batches: Sequence[list[ms.Tensor]], scale: ms.Tensor) -> None:
        self.batches, self.scale = batches, scale
        self.nothing = ms.Tensor(np.zeros(1, np.float32))
        self.inputs: dict[int, ms.Tensor] = {}
        self.outputs: dict[int, ms.Tensor] = {}
        """Hidden states after a forward, the gradient of the input after a backward; on their way out."""
        self.backs: dict[int, ms.Tensor] = {}
        self.losses: list[ms.Tensor] = []


class PipelineSums:
    """`model.loss.LossSums` over the stages of a pipeline, for evaluation: the sums on the last stage, zeros elsewhere.

    Args:
        comm: this process among the ranks.
        network: the layers of this stage.
        columns: columns that are not None when it is called.
    """

    def __init__(self, comm: Comm, network: LlamaNetwork, columns: tuple[str, ...]) -> None:
        self.places = [COLUMNS.index(name) for name in columns]
        self.neighbours = Neighbours(comm, network)
        self.is_first, self.is_last = network.part.first, network.part.last
        self.run = StageRun(network, columns)
        self.sums = StageSums(network, columns, gradients=False)
        self.nothing = ms.Tensor(np.zeros(1, np.float32))

    def __call__(self, *batch: ms.Tensor | None) -> tuple[ms.Tensor, ms.Tensor]:
        """One batch, in the order of `COLUMNS`."""
        columns, near = self._columns(batch), self.neighbours
        hidden = self.nothing if self.is_first else near.receive(near.before, columns)
        out = self.run(hidden, *columns)
        if self.is_last:
            loss, weight = self.sums(out, 0, *columns)
            return loss, weight
        near.send(out, near.behind)
        zero = ms.Tensor(0.0, ms.float32)
        return zero, zero

    def compile(self, *batch: ms.Tensor | None) -> None:
        """Compile every graph for batches like this one, without communication."""
        columns, network = self._columns(batch), self.run.network
        shape, dtype = self.neighbours.form(columns)
        self.run.compile(self.nothing if self.is_first else ms.Tensor(np.zeros(shape, np.float32)).astype(dtype), *columns)
        if self.is_last:
            normed = ms.Tensor(np.zeros(shape, np.float32)).astype(normed_dtype(network.config, network.part))
            self.sums.compile(normed, 0, *columns)

    def _columns(self, batch: tuple[ms.Tensor | None, ...]) -> list[ms.Tensor]:
        return [column for column in (batch[place] for place in self.places) if column is not None]
