"""Export by two ranks: one manifest, the same tokens as one rank gives, and graphs that run in their own job only."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest
from mindspore.train import mind_ir_pb2

from mindformers_codellama.config.read import read_run
from mindformers_codellama.export.proto import groups
from mindformers_codellama.kernels.choose import plain_operators
from mindformers_codellama.mindir.manifest import read_export_manifest
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
PROJECT = Path(__file__).resolve().parents[2]
ONE, TWO = (PROJECT / f"configs/codellama/predict_codellama_tiny{end}.yaml" for end in ("", "_2p"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.ckpt"
    with plain_operators():
        network = LlamaNetwork(read_run(ONE).model.config)
    init_parameters(network, 0, std=0.15)
    ms.save_checkpoint(network, str(path))
    return path


def codellama(*words, folder, code=0):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RANK", "MS_", "DEVICE_ID"))}
    command = [sys.executable, "-m", "mindformers_codellama.cli.main", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_two_ranks_write_one_export(checkpoint, tmp_path):
    weights = ["--load-checkpoint", checkpoint]
    codellama("launch", "--ranks", "2", "--", "export", TWO, *weights, "--output", "two", folder=tmp_path)
    codellama("export", ONE, *weights, "--output", "one", folder=tmp_path)
    two, one = (read_export_manifest(tmp_path / name) for name in ("two", "one"))
    assert two.verification["tokens"] == one.verification["tokens"]
    assert two.verification["max_logit_error"] <= two.verification["bound"]
    assert (two.world_size, two.group, two.target) == (2, "mccl_world_group", "cpu")
    assert [(graph.rank, graph.role) for graph in two.graphs] == [(0, "full"), (0, "inc"), (1, "full"), (1, "inc")]
    assert len({two.record(f"mindir_full_checkpoint/rank_{rank}_variables/data_0").sha256 for rank in (0, 1)}) == 2

    again = codellama("launch", "--ranks", "2", "--", "export", "--verify-only", "two", folder=tmp_path)
    assert "the same 8 tokens" in again
    alone = codellama("export", "--verify-only", "two", folder=tmp_path, code=9)
    assert "is of 2 ranks that run together; this process is none. Fix: codellama launch --ranks 2" in alone
    # from shards and their strategy files, for Ascend
    codellama("shard", checkpoint, "shards", "--config", TWO, folder=tmp_path)
    (tmp_path / "shards/strategy").rename(tmp_path / "strategy")
    flags = ["--load-checkpoint", "shards", "--set", "src_strategy_path_or_dir=strategy", "--output", "ascend", "--target", "ascend"]
    codellama("launch", "--ranks", "2", "--", "export", TWO, *flags, folder=tmp_path)
    manifest = read_export_manifest(tmp_path / "ascend")
    assert (manifest.group, manifest.target, manifest.verified) == ("hccl_world_group", "ascend", True)
    assert manifest.verification["tokens"] == one.verification["tokens"]
    for graph in manifest.graphs:
        model = mind_ir_pb2.ModelProto()
        model.ParseFromString((tmp_path / "ascend" / graph.file).read_bytes())
        assert groups(model) == {"hccl_world_group"}
    refused = codellama("launch", "--ranks", "2", "--", "export", "--verify-only", "ascend", folder=tmp_path, code=8)
    assert re.search(r"is for ascend: its graphs talk in the group hccl_world_group.*--target cpu", refused)


def test_a_rank_whose_files_are_damaged_stops_all(checkpoint, tmp_path):
    made = ["--load-checkpoint", checkpoint, "--output", "two", "--no-verify"]
    codellama("launch", "--ranks", "2", "--", "export", TWO, *made, folder=tmp_path)
    assert json.loads((tmp_path / "two/export/manifest.json").read_text())["verification"]["verified"] is False
    data = tmp_path / "two/mindir_full_checkpoint/rank_1_variables/data_0"
    content = bytearray(data.read_bytes())
    content[4000] ^= 1
    data.write_bytes(content)
    words = "launch --ranks 2 -- infer --model_dir two --distributed True --predict_data x".split()
    assert "rank_1_variables/data_0: is damaged or was swapped" in codellama(*words, folder=tmp_path, code=3)
