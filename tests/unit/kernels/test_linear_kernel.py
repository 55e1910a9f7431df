"""The linear kernels against numpy in float64, at every level and for both types of factors.

Bound of an error: a sum of k products made in float32 in any order is wrong by at most about k u sum |a b| with u = 2^-24;
blocks of many independent sums need far less than k, so 2 + sqrt(k) roundings with a factor of 4 are allowed. bfloat16 factors
are rounded by ml_dtypes first: their products are exact in float32, only sums are rounded. A bfloat16 result is rounded once
more, by at most 2^-8 of itself.
"""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.library import call

pytestmark = pytest.mark.usefixtures("level")

BF16 = ml_dtypes.bfloat16
COMPUTE = ("Float32", "Bfloat16")
EVERY_EXAMPLE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# around the sizes of tiles (2, 6, 14, 16, 32), of blocks of 16 steps, and a few beyond the blocks of rows and columns
SIZES = st.one_of(st.integers(0, 50), st.sampled_from([63, 64, 65, 111, 112, 113, 129, 385]))
TYPES = st.sampled_from([np.float32, BF16])


def values(random, shape, dtype=np.float32, scale=1.0):
    return (random.standard_normal(shape) * scale).astype(np.float32).astype(dtype)


def exact(factor, compute):
    """What the kernel multiplies, in float64."""
    return (factor.astype(BF16) if compute == "Bfloat16" else factor).astype(np.float64)


def check(result, terms, compute, before=None):
    """The result against the sum of left @ right over the terms."""
    wanted, size = np.zeros(result.shape), np.zeros(result.shape)
    k = 0
    for left, right in terms:
        left, right = exact(left, compute), exact(right, compute)  # noqa: PLW2901 - in float64 from here on
        wanted, size, k = wanted + left @ right, size + np.abs(left) @ np.abs(right), k + right.shape[0]
    bound = 4 * (2 + np.sqrt(k)) * 2.0**-24 * size + 1e-37
    if result.dtype == BF16:
        bound += 2.0**-8 * np.abs(wanted)
    error = np.abs(result.astype(np.float64) - wanted)
    assert (error <= bound).all(), f"{error.max()} at {np.unravel_index(error.argmax(), error.shape)}"


def linear(x, weight, compute, dtype=np.float32):
    y = np.full((*x.shape[:-1], weight.shape[0]), 7, dtype)
    call(f"Linear{compute}", [x, weight], [y])
    return y


def input_grad(pairs, like, compute):
    dx = np.full_like(like, 7)
    call(f"LinearInputGrad{compute}", [*(array for pair in pairs for array in pair), like], [dx])
    return dx


def weight_grad(dy, x, compute, dtype=np.float32):
    dweight = np.full((dy.shape[-1], x.shape[-1]), 7, dtype)
    call(f"LinearWeightGrad{compute}", [dy, x], [dweight])
    return dweight


@pytest.mark.parametrize("compute", COMPUTE)
@EVERY_EXAMPLE
@given(SIZES, SIZES, SIZES, TYPES, TYPES, TYPES, st.integers(0, 9))
def test_the_three_products_of_any_shape_and_type(compute, m, n, k, x_type, weight_type, y_type, seed):
    random = np.random.default_rng(seed)
    x, weight, dy = values(random, (m, k), x_type), values(random, (n, k), weight_type), values(random, (m, n), y_type)
    check(linear(x, weight, compute, y_type), [(x, weight.T)], compute)
    check(input_grad([(dy, weight)], x, compute), [(dy, weight)], compute)
    check(weight_grad(dy, x, compute), [(dy.T, x)], compute)


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("y_type", [np.float32, BF16])
def test_sums_longer_and_results_wider_than_a_block(compute, y_type, level):
    """Over 1024 steps the sum is made in passes, over 768 columns the columns in blocks."""
    random = np.random.default_rng(1)
    m, n, k = (5, 900, 4500) if level == "portable" else (130, 900, 4500)
    x, weight = values(random, (m, k)), values(random, (n, k))
    check(linear(x, weight, compute, y_type), [(x, weight.T)], compute)


@pytest.mark.parametrize("compute", COMPUTE)
def test_more_rows_than_are_packed_for_at_once(compute):
    random = np.random.default_rng(2)
    x, weight = values(random, (4133, 9)), values(random, (33, 9))
    check(linear(x, weight, compute), [(x, weight.T)], compute)


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_gradient_of_several_linears_of_one_input(compute, dtype):
    random = np.random.default_rng(3)
    like = np.zeros((21, 40), dtype)
    pairs = [(values(random, (21, n), dtype), values(random, (n, 40))) for n in (35, 16, 1, 0)]
    check(input_grad(pairs, like, compute), pairs, compute)


def silu(a):
    return a.astype(np.float64) / (1 + np.exp(-a.astype(np.float64)))


@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_gated_input_and_its_weight_gradient(dtype):
    random = np.random.default_rng(4)
    a, b, weight = values(random, (31, 70), dtype, 3.0), values(random, (31, 70), dtype), values(random, (45, 70))
    dy = values(random, (31, 45), dtype)
    gated = (silu(a) * b.astype(np.float64)).astype(np.float32)
    y, dweight = np.empty((31, 45), np.float32), np.empty((45, 70), np.float32)
    call("GatedLinearFloat32", [a, b, weight], [y])
    call("GatedLinearWeightGradFloat32", [dy, a, b], [dweight])
    # the gate is right to some 1e-6 of itself, besides the rounding of sums
    assert np.abs(y - gated.astype(np.float64) @ weight.T).max() < 3e-6 * (np.abs(gated) @ np.abs(weight.T)).max()
    assert np.abs(dweight - dy.T.astype(np.float64) @ gated).max() < 3e-6 * (np.abs(dy.T.astype(np.float64)) @ np.abs(gated)).max()


@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_gates_for_bfloat16_products_are_rounded_once(dtype):
    """A gate on a rounding boundary may fall to either side: one part in 2^8 of one product each."""
    random = np.random.default_rng(5)
    a, b, weight = values(random, (9, 50), dtype), values(random, (9, 50), dtype), values(random, (20, 50))
    gated = (silu(a) * b.astype(np.float64)).astype(np.float32)
    y = np.empty((9, 20), np.float32)
    call("GatedLinearBfloat16", [a, b, weight], [y])
    wanted = exact(gated, "Bfloat16") @ exact(weight, "Bfloat16").T
    assert np.abs(y - wanted).max() < 2.0**-8 * (np.abs(gated) * np.abs(weight).max()).max() + 1e-4


@pytest.mark.parametrize("compute", COMPUTE)
def test_leading_dims_are_rows_and_results_do_not_depend_on_threads(compute):
    random = np.random.default_rng(6)
    x, weight = values(random, (3, 5, 77)), values(random, (530, 77))
    y = linear(x, weight, compute)
    check(y.reshape(15, 530), [(x.reshape(15, 77), weight.T)], compute)
    before = library.threads()
    try:
        for threads in (1, 3):
            library.set_threads(threads)
            np.testing.assert_array_equal(linear(x, weight, compute), y)
    finally:
        library.set_threads(before)


@pytest.mark.parametrize("compute", COMPUTE)
def test_zero_rows_huge_and_tiny_values(compute):
    random = np.random.default_rng(7)
    x, weight = values(random, (20, 40)), values(random, (50, 40))
    x[3] = 0
    x[4] *= np.float32(1e36)
    x[5] *= np.float32(1e-30)
    check(linear(x, weight, compute), [(x, weight.T)], compute)
    assert (linear(x, weight, compute)[3] == 0).all()


@pytest.mark.parametrize("compute", COMPUTE)
def test_nan_and_infinity_stay_in_their_row_and_column(compute):
    random = np.random.default_rng(8)
    x, weight = np.abs(values(random, (19, 37))) + 1, np.abs(values(random, (41, 37))) + 1
    clean = linear(x, weight, compute)
    x[2, 36], x[18, 0], weight[40, 5] = np.nan, np.inf, -np.inf
    y = linear(x, weight, compute)
    assert np.isnan(y[2]).all()
    assert np.isposinf(y[18, :40]).all()
    assert np.isnan(y[18, 40])
    assert np.isneginf(np.delete(y[:, 40], (2, 18))).all()
    others = np.delete(np.arange(19), (2, 18))
    np.testing.assert_array_equal(y[others, :40], clean[others, :40])


def test_wrong_arguments_are_refused_with_a_message():
    x, weight = np.ones((2, 4), np.float32), np.ones((3, 5), np.float32)
    with pytest.raises(ValueError, match="last dims of x and the weight: 4 and 5"):
        linear(x, weight, "Float32")
    with pytest.raises(ValueError, match="must be float32 or bfloat16"):
        linear(x.astype(np.float64), np.ones((3, 4), np.float32), "Float32")
    with pytest.raises(ValueError, match="rows of dy and x: 3 and 2"):
        weight_grad(np.ones((3, 4), np.float32), x, "Bfloat16")
    with pytest.raises(ValueError, match="last dim of dy and rows of its weight: 2 and 3"):
        input_grad([(np.ones((2, 2), np.float32), weight)], np.ones((2, 5), np.float32), "Float32")
    with pytest.raises(ValueError, match="last dims of the output and of the inputs: 4 and 5"):
        input_grad([(np.ones((2, 3), np.float32), weight)], x, "Float32")
    with pytest.raises(ValueError, match="must be alike"):
        call("GatedLinearFloat32", [x, x.astype(BF16), np.ones((3, 4), np.float32)], [np.ones((2, 3), np.float32)])
    with pytest.raises(ValueError, match="pairs of dy and weight"):
        call("LinearInputGradFloat32", [x, weight], [x])
