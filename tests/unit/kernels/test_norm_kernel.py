"""The norm kernel against numpy in float64."""

import numpy as np
import pytest

from mindformers_codellama.kernels.library import call

pytestmark = pytest.mark.usefixtures("level")


def norm(x, weight, eps):
    y = np.empty_like(x)
    call("RmsNorm", [x, weight, np.array([eps], np.float32)], [y])
    return y


def reference(x, weight, eps):
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (2, 16), (5, 17), (4, 288), (2, 3, 33), (0, 64)])
def test_rows_of_any_width(shape):
    random = np.random.default_rng(0)
    x, weight = random.standard_normal(shape).astype(np.float32), random.standard_normal(shape[-1]).astype(np.float32)
    # three roundings of the result and a sum of squares whose error is a few units: 1e-6 is eight units in the last place
    np.testing.assert_allclose(norm(x, weight, 1e-5), reference(x, weight, 1e-5), rtol=1e-6, atol=1e-7)


def test_huge_and_tiny_values():
    x = np.array([[1e18] * 20, [1e-18] * 20, [0.0] * 20], np.float32)
    np.testing.assert_allclose(norm(x, np.ones(20, np.float32), 1e-6), reference(x, np.ones(20), 1e-6), rtol=1e-6)


def test_wrong_arguments_are_refused_with_a_message():
    with pytest.raises(ValueError, match="another width"):
        norm(np.ones((2, 4), np.float32), np.ones(5, np.float32), 1e-6)
    with pytest.raises(ValueError, match="must be float32"):
        call("RmsNorm", [np.ones((2, 4)), np.ones(4, np.float32), np.ones(1, np.float32)], [np.ones((2, 4), np.float32)])
