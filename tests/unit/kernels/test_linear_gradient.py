"""The linear Cell through automatic differentiation of MindSpore, in both modes, against torch in float64."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn, ops

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.linear import (
    KernelLinear,
    gated_linear_operator,
    gated_weight_grad_operator,
    input_grad_operator,
    weight_grad_operator,
)


@pytest.fixture(autouse=True, params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    try:
        library.load_library()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


class TwoLinears(nn.Cell):
    """Two layers whose middle has the compute type, so that gradients of that type travel between the kernels."""

    def __init__(self, compute_dtype):
        super().__init__()
        self.first, self.second = KernelLinear(compute_dtype), KernelLinear(compute_dtype, ms.float32)

    def construct(self, x, first, second, weights):
        return (self.second(self.first(x, first), second) * weights).sum()


def arrays(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def torch_gradients(x, first, second, weights):
    leaves = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, first, second)]
    loss = (leaves[0] @ leaves[1].T @ leaves[2].T * torch.tensor(weights, dtype=torch.float64)).sum()
    loss.backward()
    return loss.item(), [leaf.grad.numpy() for leaf in leaves]


# Two products in a row: in float32 some roundings of sums, in bfloat16 two or three roundings of 2^-9 of factors whose errors
# are independent, so far less than 2^-6 of the largest entry.
@pytest.mark.parametrize(("compute_dtype", "bound"), [(ms.float32, 2e-6), (ms.bfloat16, 2.0**-6)])
def test_gradients_of_input_and_weights(compute_dtype, bound):
    inputs = arrays(0, (2, 7, 50), (33, 50), (17, 33), (2, 7, 17))
    wanted_loss, wanted = torch_gradients(*inputs)
    function = ms.value_and_grad(TwoLinears(compute_dtype), (0, 1, 2))
    loss, gradients = function(*map(ms.Tensor, inputs))
    assert abs(loss.asnumpy() - wanted_loss) < bound * 14 * 17 * 33
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert gradient.dtype == ms.float32
        assert np.abs(gradient.asnumpy() - reference).max() <= bound * np.abs(reference).max()


def test_operators_for_several_linears_and_gates():
    a, b, weight, dy, dz, other = arrays(1, (9, 20), (9, 20), (30, 20), (9, 30), (9, 8), (8, 20))
    tensors = {"a": ms.Tensor(a), "b": ms.Tensor(b), "dy": ms.Tensor(dy)}
    gated = a / (1 + np.exp(-a.astype(np.float64))) * b
    y = gated_linear_operator(ms.float32, ms.float32)(tensors["a"], tensors["b"], ms.Tensor(weight))
    np.testing.assert_allclose(y.asnumpy(), gated @ weight.T, atol=2e-5)
    dweight = gated_weight_grad_operator(ms.float32)(tensors["dy"], tensors["a"], tensors["b"])
    np.testing.assert_allclose(dweight.asnumpy(), dy.T @ gated, atol=2e-5)
    dx = input_grad_operator(ms.float32)(tensors["dy"], ms.Tensor(weight), ms.Tensor(dz), ms.Tensor(other), tensors["a"])
    np.testing.assert_allclose(dx.asnumpy(), dy.astype(np.float64) @ weight + dz @ other, atol=2e-5)
    half = ops.cast(tensors["dy"], ms.bfloat16)
    assert weight_grad_operator(ms.bfloat16)(half, tensors["a"]).dtype == ms.float32
