"""Ranks agree, wait and fail together; ranks are threads here, whose collectives give up after a second as MindSpore's do after 30."""

import logging
import pickle
import threading
import time
from types import SimpleNamespace

import pytest

from mindformers_codellama.errors import CheckpointError, ClusterError, ToldElsewhere
from mindformers_codellama.parallel import agreement
from mindformers_codellama.parallel.agreement import fail_together, gather, together

RANKS = 3


class Late(Exception):
    """A collective that waited too long."""


def on_ranks(action, *, patience=1.0):
    """What `action(comm)` gave or raised on every rank."""
    barrier, slots, results = threading.Barrier(RANKS, timeout=patience), [b""] * RANKS, [None] * RANKS

    def gather_objects(rank, value):
        slots[rank] = pickle.dumps(value)
        try:
            barrier.wait()
            values = [pickle.loads(item) for item in slots]
            barrier.wait()
        except threading.BrokenBarrierError:
            raise Late from None
        return values

    def run(rank):
        try:
            results[rank] = action(SimpleNamespace(rank=rank, gather_objects=lambda value: gather_objects(rank, value)))
        except (Late, CheckpointError, ClusterError, ToldElsewhere) as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_one_process_needs_no_others():
    assert gather(None, 7, doing="x") == [7]
    assert together(None, lambda: 7, doing="x", slow=True) == 7
    with pytest.raises(CheckpointError, match="broken"):
        fail_together(None, CheckpointError("f", "broken"), doing="x")


@pytest.mark.parametrize("slow", [False, True])
def test_an_error_of_one_rank_is_told_there_and_ends_all_with_its_code(slow):
    def action(comm):
        def work():
            if comm.rank == 1:
                raise CheckpointError("file", "is damaged.")
            return comm.rank

        return together(comm, work, doing="reading", slow=slow)

    first, second, third = on_ranks(action)
    assert str(second) == "file: is damaged."
    for other in (first, third):
        assert isinstance(other, ToldElsewhere)
        assert other.exit_code == CheckpointError.exit_code
        assert "rank 1 failed: file: is damaged." in str(other)


@pytest.mark.parametrize("slow", [False, True])
def test_an_error_that_all_ranks_have_alike_is_told_by_rank_0_alone(slow):
    def action(comm):
        def work():
            time.sleep(0.3 * comm.rank)
            raise CheckpointError("file", "is damaged.")

        return together(comm, work, doing="reading", slow=slow)

    results = on_ranks(action)
    assert [type(result) for result in results] == [CheckpointError, ToldElsewhere, ToldElsewhere]


def test_a_rank_may_work_longer_than_a_collective_waits(monkeypatch, caplog):
    monkeypatch.setattr(agreement, "REMIND_EVERY", 0.2)
    monkeypatch.setattr(agreement, "ROUND", 0.2)

    def action(slow):
        def run(comm):
            def work():
                time.sleep(1.4 if comm.rank == 2 else 0)
                return comm.rank

            return together(comm, work, doing="reading", slow=slow)

        return run

    assert all(isinstance(result, Late) for result in on_ranks(action(slow=False)))
    with caplog.at_level(logging.INFO):
        assert on_ranks(action(slow=True)) == [0, 1, 2]
    assert "still at work: rank 2" in caplog.text


def test_a_rank_that_never_ends_is_given_up_at_the_limit_and_named_once(monkeypatch):
    monkeypatch.setattr(agreement, "WAIT_LIMIT", 1.0)
    monkeypatch.setattr(agreement, "ROUND", 0.2)
    given_up = threading.Event()

    def action(comm):
        try:
            return together(comm, lambda: given_up.wait(60) if comm.rank == 1 else None, doing="reading", slow=True)
        finally:
            given_up.set()

    results = on_ranks(action)
    assert isinstance(results[0], ClusterError)
    assert "rank 1 did not finish in 1 s" in str(results[0])
    assert [type(result) for result in results[1:]] == [ToldElsewhere, ToldElsewhere]
    assert {result.exit_code for result in results} == {ClusterError.exit_code}


def test_an_error_is_told_soon_though_others_still_work(monkeypatch):
    monkeypatch.setattr(agreement, "GRACE", 0.5)
    told, heard = threading.Event(), []

    def action(comm):
        def work():
            if comm.rank == 0:
                raise CheckpointError("file", "is damaged.")
            heard.append(told.wait(60))

        try:
            together(comm, work, doing="reading", slow=True)
        finally:
            told.set()

    results = on_ranks(action)
    assert [type(result) for result in results] == [CheckpointError, ToldElsewhere, ToldElsewhere]
    assert heard == [True, True], "rank 0 ended while the others worked"


def test_ranks_whose_clocks_differ_end_in_the_same_round(monkeypatch):
    """A rank that asked one round longer than the others would wait for answers until its collective fails."""
    rates, told = {}, threading.Event()

    def clock():
        rate = rates.setdefault(threading.get_ident(), 1.0 + len(rates) % RANKS)
        return time.monotonic() * rate

    monkeypatch.setattr(agreement, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(agreement, "GRACE", 0.6)
    monkeypatch.setattr(agreement, "ROUND", 0.05)

    def action(comm):
        def work():
            if comm.rank == 0:
                raise CheckpointError("file", "is damaged.")
            told.wait(60)

        try:
            return together(comm, work, doing="reading", slow=True)
        finally:
            told.set()

    assert [type(result) for result in on_ranks(action)] == [CheckpointError, ToldElsewhere, ToldElsewhere]
