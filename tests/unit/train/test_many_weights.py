"""Gradients of many weights brought together, with collectives that are made up: every tensor comes back at its place."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindformers_codellama.parallel.comm import Axis
from mindformers_codellama.train import rank_step, reduce
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate

TWO = Axis(2, 1, "two")


class Twice(nn.Cell):
    """Two ranks with the same numbers."""

    def __init__(self, axis):
        super().__init__()

    def construct(self, x):
        return x + x


class TwiceSecondRows(nn.Cell):
    """The same, cut for the second rank."""

    def __init__(self, axis, dim):
        super().__init__()

    def construct(self, x):
        return (x + x)[x.shape[0] // 2 :]


class Alike(nn.Cell):
    """The first rank has the same rows as this one."""

    def __init__(self, axis, dim):
        super().__init__()

    def construct(self, x):
        return ops.concat((x, x), 0)


class Holder(nn.Cell):
    """Gradients as parameters, so that a long list of them needs no arguments."""

    def __init__(self, inner, arrays):
        super().__init__(auto_prefix=False)
        self.inner = inner
        self.held = ms.ParameterTuple([ms.Parameter(ms.Tensor(array), name=f"g{i}") for i, array in enumerate(arrays)])

    def construct(self, *others):
        return self.inner(self.held, *others)


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    monkeypatch.setattr(reduce, "AddRanks", Twice)
    monkeypatch.setattr(rank_step, "AddRanks", Twice)
    monkeypatch.setattr(reduce, "AddAndCut", TwiceSecondRows)
    monkeypatch.setattr(reduce, "GatherParts", Alike)
    ms.set_context(mode=ms.GRAPH_MODE)


def arrays_of(count):
    shapes = [(4, 3), (6,), (2, 2), (8, 1)]
    rng = np.random.default_rng(count)
    return [rng.standard_normal(shapes[i % 4]).astype(np.float32) for i in range(count)]


@pytest.mark.parametrize("groups", [1, 3, 99])
def test_sums_and_own_rows_come_back_at_their_places(groups):
    arrays = arrays_of(11)
    partial, cut = [i % 4 == 1 for i in range(11)], tuple(i % 3 == 0 for i in range(11))
    sums = reduce.SumGradients([a.shape for a in arrays], TWO, partial, reduce.RowCut(axis=TWO, cut=cut, groups=groups))
    for i, (array, result) in enumerate(zip(arrays, Holder(sums, arrays)(), strict=True)):
        expected = array * (4 if partial[i] else 2)
        np.testing.assert_array_equal(result.asnumpy(), expected[len(expected) // 2 :] if cut[i] else expected, err_msg=str(i))


def test_hundreds_of_weights_compile():
    """With tuples that grow in a loop, MindSpore gives up on the depth of calls at its default limit, or takes gigabytes."""
    arrays = arrays_of(300)
    sums = reduce.SumTensors(TWO, [a.shape for a in arrays], 4)
    results, _ = Holder(sums, arrays)(ms.Tensor(np.zeros(1, np.float32)))
    assert all((result.asnumpy() == 2 * array).all() for array, result in zip(arrays, results, strict=True))


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "a copy"])
def test_a_gradient_that_is_not_finite_is_seen_also_in_a_copy(counted):
    arrays = arrays_of(3)
    weights = [ms.Parameter(ms.Tensor(array), name=f"w{i}") for i, array in enumerate(arrays)]
    rows = reduce.RowCut(axis=TWO, cut=(True, False, False))
    sums = reduce.SumGradients([a.shape for a in arrays], TWO, [False] * 3, rows)
    update = AdamUpdate(weights, AdamSettings(), rows=rows)
    cell = rank_step.RankUpdate(update, sums=sums, counted=[counted] * 3, counts_loss=True, world=TWO, max_grad_norm=1.0)
    holder = Holder(cell, arrays)
    for bad in (np.inf, np.nan):
        arrays[2][0, 0] = bad
        holder.held[2].set_data(ms.Tensor(arrays[2]))
        norm, _ = holder(ms.Tensor(1.0), ms.Tensor(np.array([0.1, 1e-3, 0.0], np.float32)), ms.Tensor(1.0), ms.Tensor(0.0))
        assert not np.isfinite(norm.asnumpy())
        assert all((weight.asnumpy() == array).all() for weight, array in zip(weights, arrays_of(3), strict=True))


def test_rows_of_a_cut_weight_are_updated_as_a_whole_weight_is():
    """Both ranks have the same halves here, so the whole weight ends as the second half of one updated whole, twice."""
    arrays = arrays_of(5)
    settings = AdamSettings(type="AdamW", eps=1e-3, weight_decay=0.1)
    coefficients, one = ms.Tensor(settings.coefficients(0, 0.1)), ms.Tensor(1.0)
    weights = {}
    for name, cut in (("whole", (False,) * 5), ("cut", tuple(i % 2 == 0 for i in range(5)))):
        held = [ms.Parameter(ms.Tensor(array), name=f"w{i}") for i, array in enumerate(arrays)]
        rows = reduce.RowCut(axis=TWO, cut=cut, groups=2)
        given = [0.5 * a[len(a) // 2 :] if cut[i] else 0.5 * a for i, a in enumerate(arrays)]
        Holder(AdamUpdate(held, settings, rows=rows), given)(one, coefficients, one)
        weights[name] = [weight.asnumpy() for weight in held]
    for i, (whole, cut) in enumerate(zip(weights["whole"], weights["cut"], strict=True)):
        half = whole[len(whole) // 2 :]
        np.testing.assert_allclose(cut, np.concatenate([half, half]) if i % 2 == 0 else whole, atol=1e-6, err_msg=str(i))
