"""Gradients of the norm, the gate, the residual stream and AdamW against float64.

float32 bounds are a few units in the last place (6e-8) of the largest term; a bfloat16 result is rounded once more, by at most
2^-8 of itself (2^-9 to nearest), and its inputs are exact.
"""

import ml_dtypes
import numpy as np
import pytest

from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.library import call

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("level")

BF16 = np.dtype(ml_dtypes.bfloat16)
TYPES = (np.dtype(np.float32), BF16)
ULP = {TYPES[0]: 0.0, BF16: 2.0**-8}
LENGTHS = (0, 1, 15, 16, 17, 100, 16384, 40001)


def normal(random, shape, dtype=np.float32, size=1.0):
    return (random.standard_normal(shape) * size).astype(np.float32).astype(dtype)


def close(got, wanted, *, relative=1e-6, absolute=0.0):
    error = np.abs(got.astype(np.float64) - wanted)
    bound = (relative + ULP[got.dtype]) * np.abs(wanted) + absolute
    assert (error <= bound).all(), f"{error.max()}"


def leaf(array):
    return torch.tensor(array.astype(np.float64), requires_grad=True)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("readers", [1, 3, 8])
@pytest.mark.parametrize("shape", [(1, 2), (3, 15), (70, 33), (2, 40, 64), (0, 16)])
def test_norm_gradients(shape, readers, dtype):
    random = np.random.default_rng(0)
    x, weight, eps = normal(random, shape), normal(random, shape[-1]), np.array([1e-5], np.float32)
    grads = [normal(random, shape, dtype) for _ in range(readers)]
    y, dx, dweight = np.full(shape, 7, dtype), np.full_like(x, 7), np.full_like(weight, 7)
    call("RmsNorm", [x, weight, eps], [y])
    call("RmsNormGrad", [x, weight, eps, *grads], [dx, dweight])
    exact_x, exact_weight = leaf(x), leaf(weight)
    exact = exact_x * torch.rsqrt((exact_x**2).mean(-1, keepdim=True) + float(eps[0])) * exact_weight
    exact.backward(torch.tensor(sum(grad.astype(np.float64) for grad in grads)))
    close(y, exact.detach().numpy())
    # differences and sums of up to 80 terms of size |dy| |x| / root, which is below 100 here
    close(dx, exact_x.grad.numpy(), absolute=2e-5 * readers)
    close(dweight, exact_weight.grad.numpy(), absolute=2e-5 * readers)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("count", LENGTHS)
def test_gate_and_its_gradients(count, dtype):
    random = np.random.default_rng(count)
    a, b, dy = (normal(random, count, dtype, 4.0) for _ in range(3))
    y, da, db = (np.full(count, 7, dtype) for _ in range(3))
    call("Gate", [a, b], [y])
    call("GateGrad", [a, b, dy], [da, db])
    exact_a, exact_b = leaf(a), leaf(b)
    exact = torch.nn.functional.silu(exact_a) * exact_b
    exact.backward(torch.tensor(dy.astype(np.float64)))
    close(y, exact.detach().numpy())
    close(da, exact_a.grad.numpy(), absolute=1e-5)  # 1 + a (1 - s) is a difference near a = -1.3; |dy b| is below 300
    close(db, exact_b.grad.numpy())
    call("GateGradInPlace", [a, b, dy], [np.empty(1, np.float32)])
    np.testing.assert_array_equal(a, da)
    np.testing.assert_array_equal(b, db)


def test_gate_of_huge_values_is_finite_and_nan_stays():
    a = np.array([1e30, -1e30, 100, -100, 0, np.nan], np.float32)
    y, da, db = (np.empty_like(a) for _ in range(3))
    call("Gate", [a, np.ones_like(a)], [y])
    call("GateGrad", [a, np.ones_like(a), np.ones_like(a)], [da, db])
    np.testing.assert_allclose(y[[0, 2, 4]], a[[0, 2, 4]], rtol=1e-6)
    np.testing.assert_allclose(da[[0, 2, 4]], [1, 1, 0.5], rtol=1e-6)
    assert np.isfinite(y[:5]).all()
    assert np.isfinite(da[:5]).all()
    assert np.isnan([y[5], da[5], db[5]]).all()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("count", LENGTHS)
def test_residual_add_is_exactly_rounded(count, dtype):
    random = np.random.default_rng(count)
    x, branch = normal(random, count), normal(random, count, dtype)
    y = np.full(count, 7, np.float32)
    call("ResidualAdd", [x, branch], [y])
    np.testing.assert_array_equal(y, x + branch.astype(np.float32))


@pytest.mark.parametrize("count", LENGTHS)
def test_add_in_place_is_exactly_rounded(count):
    random = np.random.default_rng(count)
    x, y = normal(random, count), normal(random, count)
    wanted, kept = x + y, y.copy()
    call("AddInPlace", [x, y], [np.empty(1, np.float32)])
    np.testing.assert_array_equal(x, wanted)
    np.testing.assert_array_equal(y, kept)


@pytest.mark.parametrize("count", LENGTHS)
def test_rounding_and_scaling(count):
    x = normal(np.random.default_rng(count), count)
    narrow, done = np.empty(count, BF16), np.empty(1, np.float32)
    call("ToBfloat16", [x], [narrow])
    np.testing.assert_array_equal(narrow, x.astype(BF16))
    scaled, scaled_narrow = x.copy(), narrow.copy()
    call("ScaleInPlace", [scaled, np.array([0.3], np.float32)], [done])
    call("ScaleInPlace", [scaled_narrow, np.array([0.3], np.float32)], [done])
    np.testing.assert_array_equal(scaled, x * np.float32(0.3))
    np.testing.assert_array_equal(scaled_narrow, (narrow.astype(np.float32) * np.float32(0.3)).astype(BF16))


def gradient_norm(gradients, unscale=1.0):
    norm = np.empty(1, np.float32)
    call("GradientNorm", [np.array(unscale, np.float32), *gradients], [norm])
    return norm[0]


def test_gradient_norm_is_exact_beyond_the_range_of_float32_squares():
    random = np.random.default_rng(0)
    gradients = [normal(random, shape, size=1e25) for shape in ((3, 5), (100_003,), (1,), (0, 4))]
    wanted = 0.5 * np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in gradients))
    assert gradient_norm(gradients, 0.5) == pytest.approx(wanted, rel=1e-7)  # float64 sums, one rounding
    assert gradient_norm([normal(random, 50, size=1e-30)]) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradient_norm_of_an_overflow_is_not_finite(bad):
    gradient = np.ones(20_000, np.float32)
    gradient[17_001] = bad
    assert not np.isfinite(gradient_norm([np.ones(3, np.float32), gradient]))


def test_gradient_norm_has_the_same_bits_with_any_number_of_threads():
    gradients = [normal(np.random.default_rng(i), 30_011) for i in range(5)]
    try:
        found = set()
        for threads in (1, 2, 3):
            library.set_threads(threads)
            found.add(gradient_norm(gradients).tobytes())
        assert len(found) == 1
    finally:
        library.set_threads(library.usable_cores())


RATES = np.array([1e-2, 1e-6, 0.1, 0.9, 0.999], np.float32)


def adam_state(count):
    random = np.random.default_rng(count)
    parameter, m, gradient = (normal(random, count) for _ in range(3))
    return [parameter, m, np.abs(normal(random, count)), gradient]


@pytest.mark.parametrize("count", LENGTHS)
def test_adam_updates_in_place(count):
    state = adam_state(count)
    p, m, v, g = (x.astype(np.float64) for x in state)
    call("AdamStep", [*state, RATES, np.array([0.3], np.float32), np.array([1.0], np.float32)], [np.empty(1, np.float32)])
    rate, eps, decay, beta1, beta2 = RATES.astype(np.float64)
    g = g * np.float64(np.float32(0.3))
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    close(state[1], m, absolute=3e-7)
    close(state[2], v)
    # a step is rate times at most a few units, and dividing by a small root spreads the error of m
    close(state[0], p - rate * (m / (np.sqrt(v) + eps) + decay * p), absolute=1e-6 + rate * 1e-6 / np.sqrt(v.min(initial=1.0)))


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_adam_changes_nothing_after_an_overflow(norm):
    state = adam_state(100)
    before = [x.copy() for x in state]
    call("AdamStep", [*state, RATES, np.array([0.0], np.float32), np.array([norm], np.float32)], [np.empty(1, np.float32)])
    for now, then in zip(state, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_wrong_arguments_are_refused():
    one, two = np.ones(1, np.float32), np.ones(2, np.float32)
    with pytest.raises(ValueError, match="another size"):
        call("Gate", [one, two], [one.copy()])
    with pytest.raises(ValueError, match="must be bfloat16"):
        call("Gate", [one.astype(BF16), one], [one.astype(BF16)])
    with pytest.raises(ValueError, match="rates must be"):
        call("AdamStep", [two, two.copy(), two.copy(), two.copy(), two, one, one], [one.copy()])
    with pytest.raises(ValueError, match="must be one number"):
        call("ScaleInPlace", [one, two], [one.copy()])
    with pytest.raises(ValueError, match="1 to 8 gradients"):
        call("RmsNormGrad", [two[None], two, one], [two[None].copy(), two.copy()])
    with pytest.raises(ValueError, match="a gradient has another size"):
        call("RmsNormGrad", [two[None], two, one, one], [two[None].copy(), two.copy()])
