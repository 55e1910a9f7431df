"""Weights a run starts from on several ranks: every kind of source cut for every layout, `auto_trans_ckpt`, refusals, memory."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from ranks_case import TINY, checked, lay, on_ranks, part, save_steps, truth, update_of

from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.checkpoint.safetensors_format import write_safetensors
from mindformers_codellama.checkpoint.start import load_start
from mindformers_codellama.checkpoint.tensors import ComputedTensor
from mindformers_codellama.checkpoint.weight_map import to_theirs
from mindformers_codellama.errors import CheckpointError, ToldElsewhere

WHOLE = lay(1, 1, 1)
STEP = 3
LAYOUTS = {"2x2x1": lay(2, 2, 1), "1x2x2": lay(1, 2, 2), "1x4x1": lay(1, 4, 1, vocabulary=False), "1x1x2": lay(1, 1, 2)}


def weights():
    return {name: truth(WHOLE, name, STEP) for name in WHOLE.shapes}


def lazy(values):
    return {name: ComputedTensor(value.shape, "float32", lambda value=value: value) for name, value in values.items()}


def hugging_face(folder):
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {to_theirs(name): tensor for name, tensor in lazy(weights()).items()}, metadata={})
    return folder


def ckpt(folder):
    write_ckpt(folder / "whole.ckpt", weights().items())
    return folder / "whole.ckpt"


def safetensors(folder):
    write_safetensors(folder / "whole.safetensors", lazy(weights()), metadata={"format": "ms"})
    return folder / "whole.safetensors"


def below_rank_0(folder):
    """As the model card asks: path/to/checkpoint_dir/rank_0/xxx.ckpt."""
    write_ckpt(folder / "dir" / "rank_0" / "xxx.ckpt", weights().items())
    return folder / "dir"


def shards(folder):
    save_steps(folder / "run", lay(2, 1, 2), [STEP - 1, STEP])
    return folder / "run"


def weights_of_shards(folder):
    save_steps(folder / "run", lay(4, 1, 1), [STEP])
    return folder / "run" / "checkpoint_network"


SOURCES = {
    "hf": lambda folder: hugging_face(folder / "hf"),
    "ckpt": ckpt,
    "safetensors": safetensors,
    "rank_0": below_rank_0,
    "shards": shards,
    "network shards": weights_of_shards,
}


def run_of(path, output, *, auto=False, strategy=""):
    return SimpleNamespace(start_weights=str(path), output_dir=str(output), auto_trans_ckpt=auto, src_strategy_path_or_dir=strategy)


def start(layout, run):
    """Every rank's network after `load_start` (or its error); `run` may depend on the rank."""

    def action(comm):
        network = update_of(layout, comm.rank, None)
        load_start(network, run(comm.rank) if callable(run) else run, comm=comm, model_layout=layout)
        return network

    return on_ranks(layout.layout, action)


def check_parts(networks, layout):
    for rank, network in enumerate(checked(networks)):
        for item in network.parameters:
            assert (item.values == part(layout, item.name, rank, STEP)).all(), (rank, item.name)


@pytest.mark.parametrize("source", SOURCES)
def test_every_rank_of_every_layout_reads_its_slices(tmp_path, source):
    path = SOURCES[source](tmp_path)
    for layout in LAYOUTS.values():
        check_parts(start(layout, run_of(path, tmp_path / "out", auto="shards" in source)), layout)
    network = update_of(WHOLE, 0, None)
    load_into(network, path)  # one process, the whole
    check_parts([network], WHOLE)


@pytest.mark.parametrize("source", ["hf", "shards"])
def test_auto_trans_ckpt_leaves_parts_from_which_later_runs_start_without_it(tmp_path, source):
    path, layout = SOURCES[source](tmp_path), LAYOUTS["2x2x1"]
    keep = tmp_path / "out" / "transformed_checkpoint" / path.name / "mine.txt"
    keep.parent.mkdir(parents=True)
    keep.write_text("not to be wiped")
    check_parts(start(layout, run_of(path, tmp_path / "out", auto=True)), layout)
    assert keep.exists()
    files = [keep.parent / f"rank_{rank}" / f"checkpoint_{rank}.ckpt" for rank in range(4)]
    for rank, file in enumerate(files):
        values = read_ckpt(file)
        assert (values["lm_head.weight"] == part(layout, "lm_head.weight", rank, STEP)).all()
    check_parts(start(layout, run_of(keep.parent, tmp_path / "second")), layout)
    assert not (tmp_path / "second").exists()
    # from there to another layout: never written over what is read
    check_parts(start(LAYOUTS["1x2x2"], run_of(keep.parent, tmp_path / "out", auto=True)), LAYOUTS["1x2x2"])
    assert (tmp_path / "out" / "transformed_checkpoint" / f"{path.name}_1x2x2" / "rank_3" / "checkpoint_3.ckpt").exists()
    check_parts(start(layout, run_of(keep.parent, tmp_path / "second")), layout)


def test_each_rank_needs_only_its_own_folder_on_disks_of_their_own(tmp_path):
    layout = LAYOUTS["1x4x1"]
    save_steps(lambda rank: tmp_path / f"machine_{rank}", layout, [STEP])
    check_parts(start(layout, lambda rank: run_of(tmp_path / f"machine_{rank}", tmp_path / "out")), layout)


def test_shards_of_another_layout_are_refused_without_auto_trans_ckpt_once(tmp_path):
    results = start(LAYOUTS["1x4x1"], run_of(shards(tmp_path), tmp_path / "out"))
    assert isinstance(results[0], CheckpointError)
    assert "is cut over ranks, and not as this run needs it (layout 1x4x1). Fix: set auto_trans_ckpt: True" in str(results[0])
    assert all(isinstance(result, ToldElsewhere) and result.exit_code == CheckpointError.exit_code for result in results[1:])


def test_a_rank_that_does_not_see_the_source_says_which_path_and_host_and_all_end(tmp_path, monkeypatch):
    monkeypatch.setattr("mindformers_codellama.checkpoint.start.host_name", lambda: "far")
    path = hugging_face(tmp_path / "hf")
    results = start(LAYOUTS["2x2x1"], lambda rank: run_of(path if rank < 3 else tmp_path / "gone", tmp_path / "out", auto=True))
    assert f"{tmp_path / 'gone'}: does not exist for rank 3 on far." in str(results[3])
    assert all(isinstance(result, ToldElsewhere) for result in results[:3])
    assert "rank 3 failed" in str(results[0])
    assert not (tmp_path / "out").exists()


def test_ranks_that_find_shards_of_different_saves_take_the_newest_complete_one(tmp_path):
    layout = LAYOUTS["1x4x1"]
    save_steps(tmp_path, layout, [STEP, STEP + 1])
    (tmp_path / "checkpoint" / "rank_2" / f"t_rank_2-1_{STEP + 1}.ckpt").unlink()
    check_parts(start(layout, run_of(tmp_path, tmp_path / "out")), layout)


def test_shards_older_than_what_one_process_saved_there_later_are_not_taken(tmp_path):
    layout = LAYOUTS["2x2x1"]
    save_steps(tmp_path, layout, [STEP - 1])
    save_steps(tmp_path, WHOLE, [STEP])
    check_parts(start(layout, run_of(tmp_path, tmp_path / "out")), layout)


def test_ranks_that_find_shards_of_different_saves_on_disks_of_their_own_are_refused(tmp_path):
    layout = LAYOUTS["1x4x1"]
    save_steps(lambda rank: tmp_path / f"machine_{rank}", layout, [STEP, STEP + 1])
    (tmp_path / "machine_2" / "checkpoint" / "rank_2" / f"t_rank_2-1_{STEP + 1}.ckpt").unlink()
    results = start(layout, lambda rank: run_of(tmp_path / f"machine_{rank}", tmp_path / "out"))
    assert "ranks find shards of different saves (rank 0 " in str(results[0])
    assert "and there is none that is complete" in str(results[0])


def test_what_other_stages_hold_is_not_unexpected_but_a_strange_tensor_is(tmp_path):
    layout = LAYOUTS["1x1x2"]
    write_ckpt(tmp_path / "more.ckpt", [*weights().items(), ("strange.weight", np.zeros(3, np.float32))])
    results = start(layout, run_of(tmp_path / "more.ckpt", tmp_path / "out"))
    assert "strange.weight: is in" in str(results[0])
    assert isinstance(results[1], ToldElsewhere)
    short = {name: value for name, value in weights().items() if name != "lm_head.weight"}
    write_ckpt(tmp_path / "less.ckpt", short.items())
    results = start(layout, run_of(tmp_path / "less.ckpt", tmp_path / "out"))
    assert "lm_head.weight: is missing" in str(results[0])  # rank 0 does not hold it and tells all the same


def test_a_full_disk_on_one_rank_ends_all_with_one_message(tmp_path):
    path, layout = hugging_face(tmp_path / "hf"), LAYOUTS["2x2x1"]
    folder = tmp_path / "out" / "transformed_checkpoint" / "hf" / "rank_1" / "checkpoint_1.ckpt"
    folder.mkdir(parents=True)  # a directory where the file goes
    results = start(layout, run_of(path, tmp_path / "out", auto=True))
    assert "is a directory" in str(results[1])
    assert all(isinstance(results[rank], ToldElsewhere) for rank in (0, 2, 3))


def test_one_ranks_file_alone_is_no_checkpoint_for_another(tmp_path):
    path = shards(tmp_path) / "checkpoint" / "rank_1" / f"t_rank_1-1_{STEP}.ckpt"
    with pytest.raises(CheckpointError, match="is the part of rank 1 of a checkpoint on 4 ranks"):
        load_into(update_of(WHOLE, 0, None), path)


MEASURE = """
import json, resource, sys
import mindspore as ms, numpy as np
from mindspore import nn
from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
path, degree = sys.argv[1], int(sys.argv[2])
config = ModelConfig(**json.loads(sys.argv[3]))
layout = ModelLayout(config=config, layout=Layout(model_parallel=degree), vocabulary_cut=True)
class Network:
    def __init__(self):
        self.all = [(n, ms.Parameter(ms.Tensor(np.ones(layout.box(n, 1).shape, np.float32)), name=n)) for n in layout.shapes]
    def parameters_and_names(self):
        return self.all
network = Network()
own = sum(p.size * 4 for _, p in network.all)
largest = max(p.size * 4 for _, p in network.all)
before = int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
load_into(network, path, model_layout=layout, rank=1)
peak = int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
print(json.dumps({"own": own, "largest": largest, "more": peak - before}))
"""


def test_a_rank_needs_memory_for_its_own_part_and_a_slice_or_two(tmp_path):
    """The whole is 8 times the part; a reader that took whole tensors would need 8 slices."""
    sizes = {"vocab_size": 16384, "hidden_size": 512, "num_layers": 2, "num_heads": 8, "num_kv_heads": 8, "intermediate_size": 2048}
    big = lay(1, 8, 1).__class__(config=TINY.__class__(seq_length=8, **sizes), layout=lay(1, 8, 1).layout)
    rng = np.random.default_rng(0)
    write_ckpt(tmp_path / "big.ckpt", ((name, rng.standard_normal(shape, np.float32)) for name, shape in big.shapes.items()))
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "big.ckpt"), "8", json.dumps(sizes | {"seq_length": 8})]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    file = (tmp_path / "big.ckpt").stat().st_size
    assert found["own"] * 7 < file
    # parameters are replaced one by one: until the old memory is given back there may be both; 24 MB for one block and the interpreter
    assert found["more"] < found["own"] + 2 * found["largest"] + 24e6, found
    assert found["more"] < 0.6 * file, found
