"""Ranks that evaluate at different speed, as threads whose collectives give up after a second."""

import threading
import time
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.parallel.comm import Axis
from mindformers_codellama.train import evaluate
from mindformers_codellama.train.evaluate import Evaluator

BATCHES = 24


class Rows:
    """A source of a rank; the second has one batch less."""

    files = ("here",)
    columns = ("input_ids",)
    batches_per_epoch = BATCHES

    def __init__(self, rank):
        self.own = BATCHES - rank

    def epoch(self, epoch):
        return iter([{"input_ids": np.ones((1, 4), np.int32)}] * self.own)


class Sums:
    """Takes its time on the second rank."""

    def __init__(self, network, **_):
        self.seconds = network.seconds

    def __call__(self, *columns):
        time.sleep(self.seconds)
        return ms.Tensor(6.0), ms.Tensor(3.0)


def evaluated(seconds):
    """Results of two ranks, the second of which takes so long for a batch."""
    barrier, slots, results = threading.Barrier(2, timeout=1.0), [None, None], [None, None]

    def run(rank):
        def gather_objects(value):
            slots[rank] = value
            barrier.wait()
            values = list(slots)
            barrier.wait()
            return values

        comm = SimpleNamespace(
            layout=Layout(data_parallel=2), rank=rank, is_alone=False, model=Axis(), stage=Axis(), gather_objects=gather_objects
        )
        network = SimpleNamespace(config=SimpleNamespace(pad_token_id=0), seconds=seconds * rank)
        try:
            results[rank] = Evaluator(network, Rows(rank), batch_size=1, comm=comm)()
        except threading.BrokenBarrierError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_slow_rank_is_waited_for_now_and_then(monkeypatch):
    monkeypatch.setattr(evaluate, "LossSums", Sums)
    results = evaluated(0.08)
    assert [(r.loss, r.tokens, r.batches) for r in results] == [(2.0, 3 * (2 * BATCHES - 1), BATCHES)] * 2


@pytest.mark.parametrize("apart", [BATCHES + 1])
def test_without_waiting_the_fast_rank_gives_up(monkeypatch, apart):
    monkeypatch.setattr(evaluate, "LossSums", Sums)
    monkeypatch.setattr(evaluate, "TOGETHER", apart)
    assert all(isinstance(result, threading.BrokenBarrierError) for result in evaluated(0.08))
