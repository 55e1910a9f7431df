"""One rank of a network cut over the model axis: compares logits, loss and every gradient with one process.

Each rank also builds the whole network and computes the same rows alone, so nothing is kept in files. Run by
test_parallel_network.py with one JSON argument.
"""

import json
import sys
from functools import cache
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.model.part import network_part, sums_gradient_over_model
from mindformers_codellama.parallel import regions
from mindformers_codellama.parallel.comm import Comm, join
from mindformers_codellama.runtime.context import enter_context

SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    num_layers=2,
    num_heads=8,
    intermediate_size=48,
    seq_length=16,
    max_position=16,
    compute_dtype="float32",
    layernorm_compute_dtype="float32",
    softmax_compute_dtype="float32",
    rotary_dtype="float32",
    param_init_dtype="float32",
    qkv_has_bias=True,
)


def break_region(name: str) -> None:
    """Take one communication out, so that a test can see that it is missed."""

    def passes(self, x):
        return x

    def gives(self, x, out, dout):
        return (dout,)

    def biased(self, x):
        y = ops.matmul(x, ops.cast(self.weight, self.compute_dtype).T)
        y = y + self.bias if self.has_bias else y
        return self.leave(y) if self.leaves else y

    if name == "reduce forward":
        regions.ReduceRegion.construct = passes
    elif name == "copy backward":
        regions.CopyRegion.bprop = gives
    elif name == "bias on every rank":
        Linear.construct = biased


def make_rows(config: ModelConfig) -> list[ms.Tensor]:
    """Ids with padding, labels with ignored places, segments and positions: everything the loss can take."""
    rng = np.random.default_rng(5)
    ids = rng.integers(3, config.vocab_size, (2, 17)).astype(np.int32)
    ids[0, 12:] = config.pad_token_id
    labels = ids.copy()
    labels[1, :4] = -100
    segments = np.repeat([[0] * 9 + [1] * 8], 2, 0).astype(np.int32)
    positions = np.repeat([[*range(9), *range(8)]], 2, 0).astype(np.int32)
    return [ms.Tensor(values) for values in (ids, labels, segments, positions)]


def trainable(network: LlamaNetwork) -> dict[str, ms.Parameter]:
    """Parameters by name, in order."""
    return dict(network.parameters_and_names())


def gradients(network: LlamaNetwork, rows: list[ms.Tensor], jit: bool) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and the gradient of every parameter, in PyNative mode compiled when `jit`."""
    weights = trainable(network)
    compute = ms.value_and_grad(TrainingLoss(network), None, list(weights.values()))
    value, found = (ms.jit(compute) if jit else compute)(*rows)
    return float(value), {name: gradient.asnumpy() for name, gradient in zip(weights, found, strict=True)}


def spread(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, in units of the largest value of the whole."""
    return float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), 1e-30))


class Logits(nn.Cell):
    """Logits of one process or one rank, compiled."""

    def __init__(self, network: LlamaNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    @ms.jit
    def construct(self, ids: ms.Tensor) -> ms.Tensor:
        """As the network's."""
        return self.network(ids)


BIASES = (-1.0, 1.0)
"""First and last value of every bias: zeros would hide one that is added once per rank."""


class Alone(NamedTuple):
    """What one process computes."""

    values: dict[str, np.ndarray]
    logits: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]


@cache
def alone(num_kv_heads: int, jit: bool) -> Alone:
    """The whole network in this process."""
    network = LlamaNetwork(ModelConfig(**(SIZES | {"num_kv_heads": num_kv_heads})))
    init_parameters(network, 3, std=0.2)
    for name, parameter in trainable(network).items():
        if name.endswith(".bias"):
            parameter.set_data(ms.Tensor(np.linspace(*BIASES, parameter.size, dtype=np.float32)))
    rows = make_rows(network.config)
    values = {name: parameter.asnumpy() for name, parameter in trainable(network).items()}
    return Alone(values, Logits(network)(rows[0][:, :-1]).asnumpy(), *gradients(network, rows, jit))


def fill(network: LlamaNetwork, layout: ModelLayout, rank: int, values: dict[str, np.ndarray]) -> None:
    """Initial weights of a part, which must be the whole ones' bytes; biases are given."""
    init_parameters(network, 3, std=0.2, model_layout=layout, rank=rank)
    assert list(trainable(network)) == list(values)
    for name, parameter in trainable(network).items():
        own = values[name][layout.box(name, rank).slices]
        if name.endswith(".bias"):
            parameter.set_data(ms.Tensor(own.copy()))
        assert np.array_equal(parameter.asnumpy(), own), name


def check_case(comm: Comm, case: dict) -> dict[str, float]:
    """How far logits, loss and each gradient are from those of one process."""
    config = ModelConfig(**(SIZES | {"num_kv_heads": case["num_kv_heads"]}))
    layout = ModelLayout(config=config, layout=comm.layout, vocabulary_cut=case["cut"])
    part = network_part(layout, comm, sequence=case["sequence"])
    assert (part.cut_vocabulary, part.sequence) == (case["cut"], case["sequence"])
    whole, own = alone(case["num_kv_heads"], case["jit"]), LlamaNetwork(config, part)
    if case.get("recompute"):
        own.recompute_blocks()
    fill(own, layout, comm.rank, whole.values)
    rows = make_rows(config)
    expected, logits = whole.logits, Logits(own)(rows[0][:, :-1]).asnumpy()
    if case["cut"]:
        expected = np.split(expected, comm.model.size, axis=-1)[comm.model.index]
    found = {"logits": spread(logits, expected)}
    loss, own_gradients = gradients(own, rows, case["jit"])
    found["loss"] = abs(loss - whole.loss) / whole.loss
    add = ops.AllReduce(group=comm.model.group)
    for name, gradient in own_gradients.items():
        if sums_gradient_over_model(name, part):
            gradient = add(ms.Tensor(gradient)).asnumpy()
        found[name] = spread(gradient, whole.gradients[name][layout.box(name, comm.rank).slices])
    return found


def check_row_bias(comm: Comm) -> dict[str, float]:
    """A row-parallel Linear with a bias against numpy: the bias counts once, with and without cut positions."""
    rng = np.random.default_rng(7)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 8, 16), (12, 16), (12,)))
    expected = x.astype(np.float64) @ weight.T + bias
    own = slice(comm.model.index * 16 // comm.model.size, (comm.model.index + 1) * 16 // comm.model.size)
    found = {}
    for kind in (regions.ReduceRegion, regions.ScatterRegion):
        leave = kind(comm.model) if kind is regions.ReduceRegion else kind(comm.model, regions.POSITIONS)
        layer = Linear(16 // comm.model.size, 12, compute_dtype=ms.float32, param_dtype=ms.float32, has_bias=True, leave=leave)
        layer.weight.set_data(ms.Tensor(weight[:, own].copy()))
        layer.bias.set_data(ms.Tensor(bias))
        y = layer(ms.Tensor(x[..., own].copy())).asnumpy()
        parts = np.split(expected, comm.model.size, axis=1) if kind is regions.ScatterRegion else None
        found[f"bias {kind.__name__}"] = spread(y, expected if parts is None else parts[comm.model.index])
    return found


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    enter_context(ContextSection(device_target="CPU", mode=request["mode"], runtime_num_threads=1))
    joined = join(Layout(model_parallel=request["ranks"]))
    break_region(request.get("broken", ""))
    print("BIAS", json.dumps(check_row_bias(joined)), flush=True)
    for given in request["cases"]:
        result = check_case(joined, given)
        worst = max(result, key=result.__getitem__)
        print("CASE", json.dumps({"case": given, "worst": worst, "spread": result[worst]}), flush=True)
    joined.wait_for_all()
