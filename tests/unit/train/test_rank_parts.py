"""Pieces of a step over ranks that need no second rank: buffers, stop requests, parts of a batch, cut moments."""

import math
import signal

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import nn, ops

from mindformers_codellama.train.interrupts import StopRequests
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.reduce import buckets
from mindformers_codellama.train.step import TrainStep


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 8))
def test_buffers_hold_every_tensor_once_in_order_and_are_of_about_one_size(sizes, count):
    groups = buckets(sizes, count)
    assert [place for group in groups for place in group] == list(range(len(sizes)))
    assert len(groups) <= count
    fair = sum(sizes) / count
    assert all(sum(sizes[i] for i in group) <= fair + max(sizes) for group in groups)


def test_one_group_is_one_buffer():
    assert buckets([5, 1, 9], 1) == ((0, 1, 2),)
    assert buckets([4, 4, 4, 4], 4) == ((0,), (1,), (2,), (3,))


def stopping(*, asked, obeys=False, error=None):
    """A loop that hears a signal or none, and obeys, fails or ends."""
    with StopRequests() as stops:
        if asked:
            signal.raise_signal(signal.SIGINT)
        assert stops.asked is asked
        if error:
            raise error
        if obeys:
            stops.obey()


@pytest.mark.parametrize("asked", [True, False], ids=["heard here", "heard by another rank"])
def test_ranks_that_stop_are_interrupted(asked):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopping(asked=asked, obeys=True)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_request_after_the_last_step_is_not_lost():
    with pytest.raises(KeyboardInterrupt):
        stopping(asked=True)


def test_an_error_is_not_hidden_by_a_request():
    with pytest.raises(ValueError, match="mine"):
        stopping(asked=True, error=ValueError("mine"))


class Mean(nn.Cell):
    """Weighted mean of a row's products with one weight; rows whose first id is 0 do not count."""

    def __init__(self):
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.linspace(0.2, 1.0, 5), ms.float32), name="weight")

    def construct(self, ids, labels=None, segments=None, positions=None):
        x = ops.cast(ids, ms.float32)
        counted = ops.cast(ids[:, 0] > 0, ms.float32)
        return ((x * self.weight).sum(1) ** 2 * counted).sum() / (counted.sum() + 1e-5)


def two_steps(*, parts, micro_steps, batches):
    ms.set_context(mode=ms.GRAPH_MODE)
    net = Mean()
    update = AdamUpdate(net.trainable_params(), AdamSettings(type="AdamW", eps=1e-3))
    step = TrainStep(net, update, columns=("input_ids",), micro_steps=micro_steps, parts=parts, max_grad_norm=1.0)
    results = [step([{"input_ids": b} for b in batches], updates=i, learning_rate=0.1, scale=LossScale(value=4.0)) for i in range(2)]
    return [(r.loss, r.grad_norm) for r in results], net.weight.asnumpy()


def test_parts_of_a_batch_equal_micro_batches_of_every_second_row():
    rows = np.random.default_rng(0).integers(1, 4, (6, 5)).astype(np.int32)
    rows[2, 0] = rows[4, 0] = 0  # the parts have 1 and 3 rows that count, so the mean of all rows is another
    parted = two_steps(parts=2, micro_steps=1, batches=[rows])
    accumulated = two_steps(parts=1, micro_steps=2, batches=[rows[0::2], rows[1::2]])
    whole = two_steps(parts=1, micro_steps=1, batches=[rows])
    np.testing.assert_allclose(parted[0], accumulated[0], rtol=1e-6)
    np.testing.assert_allclose(parted[1], accumulated[1], atol=1e-6)
    assert not math.isclose(parted[0][0][0], whole[0][0][0], rel_tol=1e-3)
