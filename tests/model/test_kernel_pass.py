"""The step without a graph beside the compiled one: the same numbers bit for bit, and the memory the planner says."""

import dataclasses
import gc
import weakref

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.kernels.linear import linear_operator
from mindformers_codellama.model import kernel_pass
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.train.kernel_step import KernelStep
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.step import TrainStep

STEPS = 3


@pytest.fixture(autouse=True)
def kernels(graph_mode):
    if choose_kernels() is None:
        pytest.skip("the kernel library cannot be used")


def batches(config, columns=("input_ids",), rows=4, seed=0):
    """Packed rows: two samples each, positions that begin again, labels of which some are ignored."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, config.vocab_size, (rows, 13)).astype(np.int32)
    labels = np.where(rng.random(ids.shape) < 0.2, config.ignore_token_id, ids).astype(np.int32)
    segments = np.repeat((np.arange(13) >= 6)[None], rows, 0).astype(np.int32)
    positions = np.repeat((np.arange(13) % 6)[None], rows, 0).astype(np.int32)
    every = {"input_ids": ids, "labels": labels, "segment_ids": segments, "position_ids": positions}
    return {name: every[name] for name in columns}


def trained(config, *, columns=("input_ids",), frozen="", scale=1.0, **options):
    """Losses and norms of some steps, and the parameters and moments after them."""
    network = LlamaNetwork(config)
    init_parameters(network, 3, std=0.1)
    parameters = [p for p in network.trainable_params() if not frozen or frozen not in p.name]
    update = AdamUpdate(parameters, AdamSettings(type="AdamW", beta2=0.95, weight_decay=0.1))
    step = TrainStep(TrainingLoss(network), update, columns=columns, **options)
    given = [batches(config, columns, seed=i) for i in range(options.get("micro_steps", 1))]
    made = [step(given, updates=i, learning_rate=1e-2, scale=LossScale(value=scale)) for i in range(STEPS)]
    tensors = (*network.get_parameters(), *update.adam_m, *update.adam_v)
    return step, [(one.loss, one.grad_norm) for one in made], {t.name: t.asnumpy().copy() for t in tensors}


def by_graph(monkeypatch, config, **options):
    with monkeypatch.context() as patch:
        patch.setattr(KernelStep, "fits", staticmethod(lambda loss, update: False))
        step, *found = trained(config, **options)
    assert step.by_kernels is None
    return found


@pytest.mark.parametrize(("compute_dtype", "size", "remade"), [("float32", 4, 2), ("bfloat16", 2, 4)])
def test_blocks_keep_the_bytes_the_planner_counts(toy_config, compute_dtype, size, remade):
    """`kernel_blocks_kept`, with the planner's own test of that formula: D 32, K and H of 2 x 8, F 48, 4 x 12 tokens."""
    network = LlamaNetwork(dataclasses.replace(toy_config, compute_dtype=compute_dtype, num_layers=4))
    network_pass = kernel_pass.KernelPass(TrainingLoss(network))
    tokens = ms.Tensor(batches(toy_config)["input_ids"][:, :12].copy())
    where, x = network_pass.stack.where(tokens, None, ops.zeros_like(tokens)), ms.Tensor(np.zeros((4, 12, 32)), ms.float32)
    kept = [block.forward(x, where)[1] for block in network_pass.blocks]
    tensors = [getattr(one, name) for one in kept for name in one.__slots__]
    found = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    assert found == 48 * (4 * (2 * 4 * 32 + size * 2 * (32 + 16) + 4 * 4 + size * 2 * 48) - remade * 4 * 32)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "options",
    [
        {"columns": ("input_ids", "labels", "segment_ids", "position_ids"), "max_grad_norm": 0.1, "scale": 64.0},
        pytest.param({"micro_steps": 2, "frozen": "w1"}, marks=pytest.mark.slow),
    ],
    ids=["packed, clipped, scaled", "two micro batches, frozen weights"],
)
def test_a_step_without_a_graph_equals_the_compiled_one_bit_for_bit(monkeypatch, toy_config, compute_dtype, options):
    config = dataclasses.replace(toy_config, compute_dtype=compute_dtype, num_layers=4)
    step, found, tensors = trained(config, **options)
    assert step.by_kernels is not None
    wanted, wanted_tensors = by_graph(monkeypatch, config, **options)
    for (loss, norm), (wanted_loss, wanted_norm) in zip(found, wanted, strict=True):
        assert loss == wanted_loss
        assert norm == pytest.approx(wanted_norm, rel=2e-7)  # squares of the embedding are added in another order
    clipped = "max_grad_norm" in options  # by a factor made of that norm
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor, wanted_tensors[name], rtol=2e-5 if clipped else 0, atol=1e-7 if clipped else 0, err_msg=name)


def test_parts_of_a_micro_batch_add_up(toy_config):
    """Every token of every row has a label, so the mean of two parts is that of all rows, but for rounding."""
    _, found, tensors = trained(toy_config, parts=2)
    _, wanted, wanted_tensors = trained(toy_config)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for name in ("lm_head.weight", "model.tok_embeddings.embedding_weight"):
        changed = np.abs(tensors[f"adam_m.{name}"] - wanted_tensors[f"adam_m.{name}"]).max()
        assert changed < 1e-5 * np.abs(wanted_tensors[f"adam_m.{name}"]).max()


def test_an_overflow_changes_nothing(toy_config):
    _, found, tensors = trained(toy_config, scale=float("inf"))
    assert not np.isfinite(found[0][1])
    assert not any(np.abs(tensors[name]).max() for name in tensors if name.startswith("adam_"))


def test_a_step_frees_what_it_made(toy_config, monkeypatch):
    """No activation outlives its block's backward pass, and no gradient the step."""
    made = []
    forward, backward = kernel_pass.BlockPass.forward, kernel_pass.BlockPass.backward

    def watch(self, x, where):
        y, kept = forward(self, x, where)
        made.append([weakref.ref(tensor) for tensor in (kept.q, kept.k, kept.v, kept.mixed, kept.sums, kept.a, kept.b)])
        return y, kept

    def counted(self, dx, kept, where, give):
        backward(self, dx, kept, where, give)
        del kept
        assert all(tensor() is None for tensor in made.pop())

    monkeypatch.setattr(kernel_pass.BlockPass, "forward", watch)
    monkeypatch.setattr(kernel_pass.BlockPass, "backward", counted)
    gc.disable()
    try:
        trained(toy_config)
    finally:
        gc.enable()
    assert not made


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def test_memory_does_not_grow_from_step_to_step(toy_config):
    """A second set of gradients would be 32 MB a step."""
    config = dataclasses.replace(toy_config, vocab_size=30000, hidden_size=128)
    network = LlamaNetwork(config)
    init_parameters(network, 3)
    step = TrainStep(TrainingLoss(network), AdamUpdate(network.trainable_params(), AdamSettings()), columns=("input_ids",))
    held = []
    for i in range(5):
        step([batches(config)], updates=i, learning_rate=1e-3, scale=LossScale(value=1.0))
        held.append(resident())
    assert held[4] - held[1] < 40e6


def test_operators_that_differ_in_their_output_alone_are_kept_apart_outside_of_graphs(eager_mode):
    x, weight = ms.Tensor(np.full((2, 8), 1 / 3), ms.float32), ms.Tensor(np.full((3, 8), 1 / 3), ms.float32)
    types = (ms.bfloat16, ms.float32)
    assert tuple(linear_operator(ms.bfloat16, out)(x, weight).dtype for out in types) == types
