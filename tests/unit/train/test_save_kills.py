"""Fifty kills at random moments of saving, of two ranks that are processes: no complete checkpoint is ever lost."""

import multiprocessing
import os
import pickle
import random
import signal
import struct
import time

import pytest
from ranks_case import checked, find, folder_of, lay, restore_and_compare, saved_state, update_of

LAYOUT = lay(1, 2, 1)
CYCLES = 10
"""Kills of one story; five stories make fifty."""


class PipeComm:
    """One of two processes that exchange pickled values; it ends when the other is gone."""

    is_alone = False
    layout = LAYOUT.layout

    def __init__(self, rank, reading, writing):
        self.rank, self.reading, self.writing = rank, reading, writing

    def gather_objects(self, value):
        data = pickle.dumps(value)
        try:
            os.write(self.writing, struct.pack("<I", len(data)) + data)
        except BrokenPipeError:
            os._exit(9)
        other = pickle.loads(self._read(struct.unpack("<I", self._read(4))[0]))
        return [value, other] if self.rank == 0 else [other, value]

    def _read(self, count):
        data = b""
        while len(data) < count:
            got = os.read(self.reading, count - len(data))
            if not got:
                os._exit(9)  # the other was killed: MindSpore's communication ends this one as well
            data += got
        return data


def save_for_ever(root, comm, point, told):
    """A resumed rank that does nothing but save."""
    folder = folder_of(root, comm, LAYOUT, keep_checkpoint_max=1)
    step = 0
    if point is not None:
        folder.replace([], incomplete=point.passed_over, ranks_before=len(point.files))
        step = point.saved.state.step
    while True:
        step += 1
        folder.save(update_of(LAYOUT, comm.rank, step), saved_state(step, comm.rank), (1, step))
        os.write(told, step.to_bytes(4, "little"))


def start_ranks(root, points):
    """Two processes, and the pipe in which each says which saves it finished."""
    context = multiprocessing.get_context("fork")
    (read_0, write_1), (read_1, write_0) = os.pipe(), os.pipe()
    reading, told = os.pipe()
    ends = {0: (read_0, write_0), 1: (read_1, write_1)}

    def run(rank):
        for handle in ends[1 - rank]:
            os.close(handle)
        os.close(reading)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        save_for_ever(root, PipeComm(rank, *ends[rank]), points[rank], told)

    processes = [context.Process(target=run, args=(rank,), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for handle in (read_0, write_0, read_1, write_1, told):
        os.close(handle)
    return processes, reading


@pytest.mark.parametrize("seed", range(5))
def test_sigkill_of_a_rank_at_random_moments_never_loses_a_step_that_all_ranks_finished(tmp_path, seed):
    choose = random.Random(seed)
    points, finished = [None, None], 0
    for _ in range(CYCLES):
        processes, reading = start_ranks(tmp_path, points)
        os.read(reading, 4)  # a rank has finished one save, so both have written it
        time.sleep(choose.uniform(0, 0.06))
        os.kill(processes[choose.randrange(2)].pid, signal.SIGKILL)
        if choose.random() < 0.5:  # the launcher stops the other one; or it ends by itself
            for process in processes:
                process.kill()
        for process in processes:
            process.join()
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        steps = [int.from_bytes(told[at : at + 4], "little") for at in range(0, len(told), 4)]
        points = checked(find(tmp_path, LAYOUT))
        found = points[0].saved.state.step
        assert found >= max([*steps, finished + 1]), (found, steps)
        restore_and_compare(points, LAYOUT, found)
        finished = found
