"""The step with an adapter: plain graph, graph of kernels and no graph make the same A and B; dropout; frozen weights in bfloat16."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.config.sections_pet import PetSection
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.model.initial import initial_value
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.lora import add_adapter, initial_a
from mindformers_codellama.model.lora_pass import Dropout
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.train.kernel_step import KernelStep
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.step import TrainStep

PET = PetSection(lora_rank=3, lora_alpha=6, lora_dropout=0, target_modules=".*w")
STEPS = 3


def built(config):
    """A network with weights below a fresh adapter."""
    network = LlamaNetwork(config)
    add_adapter(network, PET, 1)
    for name, parameter in network.parameters_and_names():
        if "lora" not in parameter.name:
            parameter.set_data(ms.Tensor(initial_value(name, tuple(parameter.shape), 3, std=0.1)).astype(parameter.dtype))
    return network.set_train()


def trained(network, dropout=None, steps=STEPS):
    """Losses, and A and B after them."""
    ids = np.random.default_rng(0).integers(1, network.config.vocab_size, (4, 13)).astype(np.int32)
    update = AdamUpdate(network.trainable_params(), AdamSettings(type="AdamW", eps=1e-8))
    step = TrainStep(TrainingLoss(network), update, columns=("input_ids",), max_grad_norm=1.0, dropout=dropout)
    rate = {"learning_rate": 1e-2, "scale": LossScale(value=4.0)}
    made = [step([{"input_ids": ids}], updates=i, **rate) for i in range(steps)]
    return [one.loss for one in made], {p.name: p.asnumpy().copy() for p in update.parameters}, step


@pytest.fixture
def kernels(graph_mode):
    if choose_kernels() is None:
        pytest.skip("the kernel library cannot be used")
    yield
    choose_kernels()


@pytest.mark.slow
def test_three_ways_to_make_a_step_agree(toy_config, kernels, monkeypatch):
    losses, found, step = trained(built(toy_config))
    assert step.by_kernels is not None
    assert len(found) == 2 * 7 * toy_config.num_layers
    choose_kernels("off")
    plain = trained(built(toy_config))
    for other, values, way in (by_graph(toy_config, monkeypatch), plain):
        assert way.by_kernels is None
        np.testing.assert_allclose(losses, other, rtol=2e-6)
        for name, value in found.items():
            # sums in other orders: 1e-6 of a gradient; Adam's first step divides by it, and near zero its sign is rounding's
            far = np.abs(value - values[name]) > 1e-4
            assert far.mean() < 0.02, name


def by_graph(config, monkeypatch):
    """`trained` by the kernels in a compiled graph, with merged weights."""
    choose_kernels()
    with monkeypatch.context() as patch:
        patch.setattr(KernelStep, "fits", staticmethod(lambda loss, update: False))
        return trained(built(config))


@pytest.mark.slow
def test_graphs_take_frozen_matrices_in_bfloat16(toy_config, kernels, monkeypatch):
    """There the sum of both parts of a weight is rounded, not the products: 2^-9 of each."""
    config = dataclasses.replace(toy_config, compute_dtype="bfloat16")
    np.testing.assert_allclose(by_graph(config, monkeypatch)[0], trained(built(config))[0], rtol=2e-3)


def test_bfloat16_products_have_the_same_numbers_whatever_holds_frozen_matrices(toy_config, kernels):
    config = dataclasses.replace(toy_config, compute_dtype="bfloat16")
    narrow, wide = built(config), built(config)
    for name, linear in wide.cells_and_names():
        if isinstance(linear, Linear) and name != "lm_head":
            assert linear.weight.dtype == ms.bfloat16, "half the memory"
            values = initial_value(linear.weight.name, tuple(linear.weight.shape), 3, std=0.1)
            linear.weight = ms.Parameter(ms.Tensor(values), name=linear.weight.name, requires_grad=False)
    losses, found, _ = trained(narrow)
    wanted, values, _ = trained(wide)
    assert losses == wanted
    assert all(np.array_equal(found[name], value) for name, value in values.items())


def test_dropout_is_a_function_of_seed_and_step_and_keeps_the_mean(toy_config, kernels):
    whole = trained(built(toy_config), Dropout(0.3, 5), steps=2)[0]  # in the first B is zero
    assert trained(built(toy_config), Dropout(0.3, 5), steps=2)[0] == whole
    assert trained(built(toy_config), Dropout(0.3, 6), steps=2)[0] != whole
    assert whole != trained(built(toy_config), steps=2)[0]
    mask = Dropout(0.3, 5, (1, 0)).mask("0.wq", (400, 500)).asnumpy()
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert mask.mean() == pytest.approx(1.0, abs=0.01)  # 200000 draws: five times their standard error is 0.0073
    assert not np.array_equal(mask, Dropout(0.3, 5, (2, 0)).mask("0.wq", (400, 500)).asnumpy())


def test_gradients_with_dropout_are_those_of_the_loss(toy_config, kernels):
    """Along a random direction of all A and B: the slope by central differences of the same, fixed draw."""
    network = built(toy_config)
    rng = np.random.default_rng(2)
    for parameter in network.trainable_params():
        parameter.set_data(ms.Tensor(rng.standard_normal(parameter.shape).astype(np.float32) * 0.3))
    loss_step = KernelPassOf(network, Dropout(0.4, 9, (0, 0)))
    _, gradients = loss_step()
    start = {p.name: p.asnumpy().copy() for p in network.trainable_params()}
    direction = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in start.items()}
    slope = sum(float((gradients[name].astype(np.float64) * direction[name]).sum()) for name in start)
    size, found = 2e-3, []
    for sign in (1, -1):
        for parameter in network.trainable_params():
            parameter.set_data(ms.Tensor(start[parameter.name] + np.float32(sign * size) * direction[parameter.name]))
        found.append(loss_step()[0])
    # the loss is right to 1e-6, and curved: both errors are below a percent of a slope around 1
    assert (found[0] - found[1]) / (2 * size) == pytest.approx(slope, rel=0.02)


class KernelPassOf:
    """Loss and gradients of one batch."""

    def __init__(self, network, dropout):
        from mindformers_codellama.model.kernel_pass import KernelPass

        self.run = KernelPass(TrainingLoss(network), dropout)
        self.ids = np.random.default_rng(0).integers(1, network.config.vocab_size, (4, 13)).astype(np.int32)

    def __call__(self):
        gradients = {}
        with ms._no_grad():
            loss = self.run(1.0, lambda parameter, gradient: gradients.setdefault(parameter.name, gradient), self.ids)
        return float(loss.asnumpy()), {name: getattr(value, "asnumpy", lambda: None)() for name, value in gradients.items()}


def test_dropout_without_the_kernels_is_refused(toy_config, graph_mode):
    choose_kernels("off")
    network = built(toy_config)
    with pytest.raises(ConfigError, match="lora_dropout: got 0.1; compiled steps cannot leave out the same numbers"):
        trained(network, Dropout(0.1, 5))
    choose_kernels()


def test_a_begins_as_peft_draws_it_and_by_its_name_alone():
    """Uniform within 1 / sqrt(I), whose variance is 1 / (3 I)."""
    found = initial_a("model.layers.0.attention.wq.mindpet_delta_lora_A", (64, 1024), 1)
    assert np.abs(found).max() <= 1 / 32
    assert found.var() == pytest.approx(1 / (3 * 1024), rel=0.02)
    assert np.array_equal(found[:2], initial_a("model.layers.0.attention.wq.mindpet_delta_lora_A", (2, 1024), 1))
    assert not np.array_equal(found, initial_a("model.layers.1.attention.wq.mindpet_delta_lora_A", (64, 1024), 1))
