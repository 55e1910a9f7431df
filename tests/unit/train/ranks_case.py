"""Ranks as threads of one process, and a fabricated model whose every number is known by name, step and place."""

import functools
import pickle
import threading
import zlib
from dataclasses import dataclass

import numpy as np

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections import CheckpointMonitor
from mindformers_codellama.layout.cuts import ModelLayout, OptimizerCut
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.resume import find_resume_point, restore
from mindformers_codellama.train.save import CheckpointFolder
from mindformers_codellama.train.state import RunFacts, SavedState, TrainState

TINY = ModelConfig(vocab_size=48, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=4, intermediate_size=48, seq_length=8)
FACTS = RunFacts(
    rows=10, batch_size=2, micro_steps=1, row_length=9, seed=0, shuffle=True, columns=("input_ids",), data="abc", optimizer="AdamW"
)
MOMENTS = ("adam_m.", "adam_v.")


def lay(data, model, stage, *, vocabulary=True, zero=True):
    cut = OptimizerCut(threshold=0) if zero else None
    layout = Layout(data_parallel=data, model_parallel=model, pipeline_stage=stage)
    return ModelLayout(config=TINY, layout=layout, vocabulary_cut=vocabulary, optimizer_cut=cut)


class ThreadComm:
    """One of several threads that exchange pickled values."""

    def __init__(self, rank, layout, slots, barrier):
        self.rank, self.layout, self.slots, self.barrier = rank, layout, slots, barrier
        self.is_alone = layout.ranks == 1

    def gather_objects(self, value):
        self.slots[self.rank] = pickle.dumps(value)
        self.barrier.wait()
        values = [pickle.loads(item) for item in self.slots]
        self.barrier.wait()
        return values


def on_ranks(layout, action):
    """What `action(comm)` gave or raised on every rank."""
    ranks, results = layout.ranks, [None] * layout.ranks
    barrier, slots = threading.Barrier(ranks, timeout=60), [b""] * ranks

    def run(rank):
        try:
            results[rank] = action(ThreadComm(rank, layout, slots, barrier))
        except Exception as error:  # noqa: BLE001 - given back to the test
            results[rank] = error
            if not hasattr(error, "exit_code"):
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def checked(results):
    """Results of which none is an error."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


class Array:
    """What saving and loading need of a parameter."""

    def __init__(self, name, values):
        self.name, self.values = name, values
        self.shape, self.dtype = values.shape, "Float32"

    def asnumpy(self):
        return self.values

    def set_data(self, tensor):
        self.values = tensor.asnumpy()


def truth(model_layout, name, step):
    """The whole tensor after a step."""
    return _numbers(model_layout.shapes[name.removeprefix(MOMENTS[0]).removeprefix(MOMENTS[1])], name, step)


@functools.lru_cache(maxsize=512)
def _numbers(shape, name, step):
    made = np.random.default_rng([step, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    made.flags.writeable = False
    return made


def part(model_layout, name, rank, step):
    """What a rank holds of it: an independent slice."""
    box = model_layout.box(name, rank)
    return truth(model_layout, name, step)[box.slices].copy()


@dataclass
class Update:
    """Stands for the optimizer of one rank, and for its network."""

    parameters: list
    adam_m: list
    adam_v: list

    def parameters_and_names(self):
        return [(item.name, item) for item in self.parameters]

    @property
    def all(self):
        return [*self.parameters, *self.adam_m, *self.adam_v]


def update_of(model_layout, rank, step):
    """Weights and moments of a rank after a step; zeros when step is None."""
    names = model_layout.names(model_layout.layout.place(rank).stage)

    def group(prefix):
        if step is None:
            return [Array(prefix + name, np.zeros(model_layout.box(prefix + name, rank).shape, np.float32)) for name in names]
        return [Array(prefix + name, part(model_layout, prefix + name, rank, step)) for name in names]

    return Update(group(""), group(MOMENTS[0]), group(MOMENTS[1]))


def saved_state(step, rank=0):
    scale = LossScale(value=1024.0 / 3, factor=2.0, window=5, current_step=step + 1, last_change=step // 2)
    random = {"test": bytes([rank] * 4).hex()}
    return SavedState(state=TrainState(step=step, updates=step - 1, scale=scale), facts=FACTS, random=random, run_id="r")


def folder_of(root, comm, model_layout, **settings):
    monitor = CheckpointMonitor(**{"prefix": "t", "keep_checkpoint_max": 2} | settings)
    return CheckpointFolder(root(comm.rank) if callable(root) else root, monitor, comm=comm, model_layout=model_layout)


def save_steps(root, model_layout, steps, **settings):
    """A run on the ranks of a layout that saves these steps."""

    def run(comm):
        folder = folder_of(root, comm, model_layout, **settings)
        for step in steps:
            folder.save(update_of(model_layout, comm.rank, step), saved_state(step, comm.rank), (1, step))
        return folder

    return checked(on_ranks(model_layout.layout, run))


def find(root, model_layout, **options):
    """The resume point of every rank (or its error)."""

    def run(comm):
        path = root(comm.rank) if callable(root) else root
        return find_resume_point(path, prefix="t", comm=comm, model_layout=model_layout, **options)

    return on_ranks(model_layout.layout, run)


def restore_and_compare(points, model_layout, step):
    """Every rank's weights and moments equal, bit for bit, its slices of the whole tensors."""
    for rank, point in enumerate(points):
        update = update_of(model_layout, rank, None)
        alone = model_layout.layout.ranks == 1
        scale = LossScale(value=1.0, factor=2.0, window=5, current_step=1, last_change=0)
        state = restore(point, update, update, facts=FACTS, scale=scale, model_layout=None if alone else model_layout, rank=rank)
        assert state == saved_state(step).state
        for item in update.all:
            assert (item.values == part(model_layout, item.name, rank, step)).all(), (rank, item.name)
