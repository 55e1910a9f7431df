"""The training Cells inside MindSpore: a small network of all of them, and several optimizer steps, in graph mode and PyNative.

float32 gradients are compared with torch in float64: below 1e-4 of the largest value through attention, two norms and the head.
bfloat16 rounds every tensor between operators (2^-9 each, about ten of them in a row): below 5e-2.
"""

import numpy as np
import pytest

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels.library import load_library

try:
    load_library()
except EnvironmentFault as fault:
    pytest.skip(str(fault), allow_module_level=True)

import mindspore as ms  # noqa: E402
from mindspore import nn, ops  # noqa: E402

from mindformers_codellama.kernels.training import (  # noqa: E402
    KernelAdd,
    KernelAttention,
    KernelGate,
    KernelHeadLoss,
    KernelHeadLossValue,
    KernelNorm,
    adam_operator,
    add_in_place_operator,
    gate_grad_in_place_operator,
    gradient_norm_operator,
    rotary_table,
)

B, S, N, H, V = 2, 20, 2, 8, 30
D = N * H
EPS = 1e-5
TYPES = {"float32": ms.float32, "bfloat16": ms.bfloat16}


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


class Small(nn.Cell):
    """norm -> attention -> add -> norm -> gate -> add -> norm -> head loss, on weights given as Parameters."""

    def __init__(self, dtype):
        super().__init__()
        random = np.random.default_rng(0)

        def parameter(name, *shape):
            return ms.Parameter(ms.Tensor(random.standard_normal(shape).astype(np.float32)), name=name)

        self.norm_1, self.norm_2, self.norm_3 = parameter("norm_1", D), parameter("norm_2", D), parameter("norm_3", D)
        self.head = parameter("head", V, D)
        self.attention_norm = KernelNorm(EPS, output=dtype, copies=3)
        self.gate_norm = KernelNorm(EPS, output=dtype, copies=2)
        self.last_norm = KernelNorm(EPS, output=dtype)
        self.attention = KernelAttention(N, N, 0)
        self.gate = KernelGate()
        self.add = KernelAdd(dtype)
        self.loss = KernelHeadLoss()
        angles = np.outer(np.arange(S), 1e4 ** (-np.arange(0, H, 2) / H))
        self.table = rotary_table(angles)

    def construct(self, x, positions, segments, tokens, labels, weights):
        q, k, v = self.attention_norm(x, self.norm_1)
        x = self.add(x, self.attention(q, k, v, self.table, positions, segments, tokens)[0])
        a, b = self.gate_norm(x, self.norm_2)
        x = self.add(x, self.gate(a, b))
        return self.loss(self.last_norm(x, self.norm_3), self.head, labels, weights)[0]


def batch():
    random = np.random.default_rng(1)
    x = random.standard_normal((B, S, D)).astype(np.float32)
    positions = np.tile(np.arange(S, dtype=np.int32), (B, 1))
    segments = (positions >= 11).astype(np.int32)
    tokens = np.ones((B, S), np.int32)
    tokens[1, 15:] = 0
    labels = random.integers(0, V, B * S).astype(np.int32)
    weights = (tokens != 0).astype(np.float32).reshape(-1)
    return x, positions, segments, tokens, labels, weights


def reference(net, arrays):
    """Loss and gradients of x, the norms and the head, by torch in float64."""
    torch = pytest.importorskip("torch")
    x, positions, segments, tokens, labels, weights = arrays
    leaves = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, *(p.asnumpy() for p in parameters(net)))]
    stream, norm_1, norm_2, norm_3, head = leaves
    turn = torch.tensor(net.table.asnumpy().astype(np.float64))[torch.tensor(positions).long()][:, :, None]
    cos, sin = turn[..., : H // 2], turn[..., H // 2 :]

    def norm(value, weight):
        return value * torch.rsqrt((value**2).mean(-1, keepdim=True) + EPS) * weight

    def rotate(value):
        first, second = value[..., : H // 2], value[..., H // 2 :]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).transpose(1, 2)

    h = norm(stream, norm_1).view(B, S, N, H)
    order = np.arange(S)
    visible = (order[None] <= order[:, None])[None] & (segments[:, :, None] == segments[:, None]) & (tokens != 0)[:, None]
    visible |= np.eye(S, dtype=bool)[None]  # a pad that sees nothing would be NaN here; it counts nowhere
    scores = (rotate(h) @ rotate(h).transpose(-1, -2) / np.sqrt(H)).masked_fill(~torch.tensor(visible)[:, None], -torch.inf)
    y = stream + (torch.softmax(scores, -1) @ h.transpose(1, 2)).transpose(1, 2).reshape(B, S, D)
    inner = norm(y, norm_2)
    y = y + torch.nn.functional.silu(inner) * inner
    chosen = torch.log_softmax(norm(y, norm_3).view(-1, D) @ head.T, -1)[torch.arange(B * S), torch.tensor(labels).long()]
    loss = -(chosen * torch.tensor(weights.astype(np.float64))).sum()
    loss.backward()
    return loss.item(), [leaf.grad.numpy() for leaf in leaves]


def parameters(net):
    return [net.norm_1, net.norm_2, net.norm_3, net.head]


class Scaled(nn.Cell):
    """The loss times 3: the gradients made in the forward pass must be scaled in the backward pass."""

    def __init__(self, net):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, *arguments):
        return self.net(*arguments) * 3.0


@pytest.mark.parametrize("dtype", list(TYPES))
def test_gradients_of_a_network_of_all_cells(mode, dtype):
    net, arrays = Small(TYPES[dtype]), batch()
    gradient = ops.value_and_grad(Scaled(net), 0, ms.ParameterTuple(parameters(net)))
    for _ in range(2):  # twice: nothing may be left of the first call
        loss, (dx, grads) = gradient(*(ms.Tensor(a) for a in arrays))
    wanted, exact = reference(net, arrays)
    bound = 1e-4 if dtype == "float32" else 5e-2
    assert loss.asnumpy()[0] == pytest.approx(3 * wanted, rel=bound)
    for got, right in zip((dx, *grads), exact, strict=True):
        assert np.abs(got.asnumpy() - 3 * right).max() <= bound * 3 * np.abs(right).max()


def test_loss_without_gradients_is_the_same(mode):
    net, (_, _, _, _, labels, weights) = Small(ms.float32), batch()
    hidden = ms.Tensor(np.random.default_rng(2).standard_normal((B * S, D)).astype(np.float32))
    arguments = (hidden, net.head, ms.Tensor(labels), ms.Tensor(weights))
    assert KernelHeadLossValue()(*arguments).asnumpy() == KernelHeadLoss()(*arguments)[0].asnumpy()


class InPlace(nn.Cell):
    """Twice in place on a copy of the first input, by calls whose output nobody takes, and what became of the copy."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def construct(self, x, *others):
        changed = x + 0.0
        self.operator(changed, *others)
        self.operator(changed, *others)
        return changed + 0.0


def numbers(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gate_gradients_twice(a, b, gradient):
    """Of `silu(a) * b` in a's place, where the second call finds the first one's gradients for a and b."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    for _ in range(2):
        sigmoid = 1 / (1 + np.exp(-a))
        a, b = gradient * b * sigmoid * (1 + a * (1 - sigmoid)), gradient * a * sigmoid
    return a


@pytest.mark.parametrize(
    ("operator", "others", "wanted"),
    [
        (add_in_place_operator, (numbers(5, 7, seed=1),), lambda x, y: x + y + y),
        (lambda: KernelHeadLoss().scale, (np.array([0.75], np.float32),), lambda x, factor: x * factor * factor),
        (gate_grad_in_place_operator, (numbers(5, 7, seed=2), numbers(5, 7, seed=3)), gate_gradients_twice),
    ],
    ids=["add", "scale", "gate"],
)
def test_calls_that_write_in_place_are_all_made_in_their_order(mode, operator, others, wanted):
    """A graph leaves out or merges calls of an operator it takes for a pure one."""
    x = numbers(5, 7, seed=0)
    found = InPlace(operator())(ms.Tensor(x), *map(ms.Tensor, others)).asnumpy()
    # a few roundings of float32; a call that is missing changes the first digit
    np.testing.assert_allclose(found, wanted(x, *others), rtol=1e-5, atol=1e-6)


class Step(nn.Cell):
    """One optimizer step of a loss that is quadratic in two Parameters and reads each of them twice."""

    def __init__(self, branch):
        super().__init__()
        random = np.random.default_rng(3)
        self.branch = branch
        self.weights = ms.ParameterTuple(
            [ms.Parameter(ms.Tensor(random.standard_normal(shape).astype(np.float32)), name=f"w{shape}") for shape in ((7, 9), (40_000,))]
        )
        self.m = ms.ParameterTuple([ms.Parameter(ms.Tensor(np.zeros(w.shape, np.float32)), name=f"m.{w.name}") for w in self.weights])
        self.v = ms.ParameterTuple([ms.Parameter(ms.Tensor(np.zeros(w.shape, np.float32)), name=f"v.{w.name}") for w in self.weights])
        self.norm, self.adam = gradient_norm_operator(), adam_operator()
        self.rates = ms.Tensor(np.array([1e-2, 1e-6, 0.1, 0.9, 0.999], np.float32))
        self.gradient = ops.value_and_grad(self.loss, None, self.weights)

    def loss(self, scale):
        total = scale * 0.0
        for weight in self.weights:
            total = total + ops.reduce_sum(weight * weight * weight) * scale
        return total

    def construct(self, scale, unscale):
        loss, gradients = self.gradient(scale)
        norm = self.norm(unscale, *gradients)
        if self.branch:
            if ops.isfinite(norm):
                norm = ops.depend(norm, self.update(gradients, unscale, norm))
        else:
            norm = ops.depend(norm, self.update(gradients, unscale, norm))
        # read again behind the update: must not be moved before it
        return loss, norm

    def update(self, gradients, unscale, norm):
        done = norm
        for i in range(2):
            done = ops.depend(done, self.adam(self.weights[i], self.m[i], self.v[i], gradients[i], self.rates, unscale, norm))
        return done


@pytest.mark.parametrize("branch", [False, True], ids=["plain", "if isfinite"])
def test_adam_changes_the_parameters_themselves_step_after_step(mode, branch):
    step = Step(branch)
    held = [w.asnumpy().astype(np.float64) for w in step.weights]
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in held]
    for count in range(4):
        scale = np.inf if count == 2 else 8.0  # the third step overflows and must change nothing
        loss, norm = step(ms.Tensor(scale, ms.float32), ms.Tensor(1.0 / 8.0, ms.float32))
        assert np.isfinite(norm.asnumpy()[0]) == (count != 2)
        if count == 2:
            continue
        assert float(loss.asnumpy()) == pytest.approx(8 * sum((w**3).sum() for w in held), rel=1e-4, abs=1e-2)
        assert norm.asnumpy()[0] == pytest.approx(np.sqrt(sum((9 * w**4).sum() for w in held)), rel=1e-5)
        for i, w in enumerate(held):
            g = 3 * w * w
            m, v = 0.9 * moments[i][0] + 0.1 * g, 0.999 * moments[i][1] + 0.001 * g * g
            moments[i] = (m, v)
            held[i] = w - 1e-2 * (m / (np.sqrt(v) + 1e-6) + 0.1 * w)
        for now, wanted, moment, (m, _) in zip(step.weights, held, step.m, moments, strict=True):
            # float32 rounding of g in m / sqrt(v), a ratio of order 1, times the rate
            np.testing.assert_allclose(now.asnumpy(), wanted, atol=3e-6)
            np.testing.assert_allclose(moment.asnumpy(), m, rtol=1e-5, atol=1e-6)
