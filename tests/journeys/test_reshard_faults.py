"""Resharding that is killed and run again, a worker that dies, and memory that does not grow with the model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.hf_config import hf_config
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes, to_theirs
from mindformers_codellama.config.model_config import ModelConfig

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads processes and memory from /proc (Linux)")

SIZES = {"vocab_size": 16000, "hidden_size": 512, "num_layers": 12, "num_heads": 8, "num_kv_heads": 8, "intermediate_size": 1376}

# VmHWM, not getrusage, for this process: ru_maxrss survives exec. Its workers are measured by RUSAGE_CHILDREN: they start small.
WORKER = """
import json, re, resource, sys
from mindformers_codellama.cli.main import main
import mindformers_codellama.cli.reshard, mindformers_codellama.checkpoint.reshard, tqdm, ml_dtypes
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
if __name__ == "__main__":
    before = peak()
    code = main(sys.argv[1:])
    print(json.dumps([code, before, peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A Hugging Face directory of 208 MB with distinct values, and the size of its largest tensor."""
    folder = tmp_path_factory.mktemp("large") / "hf"
    folder.mkdir()
    config = ModelConfig(**SIZES, seq_length=64, max_position=64)
    shapes = expected_shapes(Sizes.of(config))
    weights = {
        to_theirs(name): np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + i for i, (name, shape) in enumerate(shapes.items())
    }
    assert sum(value.nbytes for value in weights.values()) > 200e6
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(config, "float32")))
    yield folder, max(value.nbytes for value in weights.values())
    (folder / "model.safetensors").unlink()


def command(*words):
    return [sys.executable, "-m", "mindformers_codellama.cli.main", *map(str, words)]


def children(process):
    """Ids of the processes a process started."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def is_running(process):
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def written(manifest):
    return len(json.loads(manifest.read_text())["files"]) if manifest.exists() else 0


def same(source, target):
    wanted, found = open_checkpoint(source), open_checkpoint(target)
    return all(found.read(name).tobytes() == wanted.read(name).tobytes() for name in wanted.names())


def test_memory_is_that_of_blocks_whatever_the_model_and_the_layouts(tmp_path, large):
    folder, largest = large
    steps = [
        ("shard", folder, tmp_path / "a", "--layout", "1x2x2", "--workers", "1"),
        ("reshard", tmp_path / "a", tmp_path / "b", "--layout", "1x8x1", "--workers", "2"),
        ("merge", tmp_path / "b", tmp_path / "c.ckpt"),
    ]
    for words in steps:
        done = subprocess.run([sys.executable, "-c", WORKER, *map(str, words)], capture_output=True, text=True, check=True)
        code, before, peak, workers = json.loads(done.stdout.splitlines()[-1])
        assert code == 0, done.stderr
        # measured above what the imports take: blocks of 8 MB; the largest tensor has 33 MB, the model 208 MB
        assert peak - before < 2 * largest, words
        assert max(peak, workers) < 2 * largest + (400 << 20), words
        assert workers < before + 2 * largest, words
    assert same(folder, tmp_path / "c.ckpt")


@pytest.mark.cluster
def test_killed_and_run_again_it_goes_on(tmp_path, large):
    folder, _ = large
    target = tmp_path / "parts"
    words = command("shard", folder, target, "--layout", "1x4x4", "--workers", "2", "--json")
    manifest = target / "manifest.json"
    finished = 0
    for files in (1, 5, 11):  # killed when so many are done
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        wait_until(lambda n=files, running=process: written(manifest) >= n or running.poll() is not None)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda ids=workers: not any(map(is_running, ids)), 30)  # nobody goes on writing
        values = json.loads(manifest.read_text())
        assert not values["sharding"]["complete"]
        finished = len(values["files"])
        for file in target.glob("rank_*/*.ckpt"):  # a glob that leaves out temporary names
            if not file.name.startswith("."):
                scan_ckpt(file)
    for place in (".", "strategy", "rank_0"):  # what a kill leaves inside a write, whichever file it was
        (target / place).mkdir(exist_ok=True)
        (target / place / ".manifest.json.1.tmp").write_bytes(b"{")
    kept = {entry["name"]: (target / entry["name"]).stat().st_mtime_ns for entry in json.loads(manifest.read_text())["files"]}
    report = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert report["skipped"] == finished >= 11
    assert all((target / name).stat().st_mtime_ns == changed for name, changed in kept.items())
    assert json.loads(manifest.read_text())["sharding"]["complete"]
    assert not [path for path in target.rglob("*.tmp")]
    assert same(folder, target)


def test_a_worker_that_dies_ends_the_command_with_a_message(tmp_path, large):
    folder, _ = large
    words = command("shard", folder, tmp_path / "parts", "--layout", "1x8x2", "--workers", "2")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "parts/rank_0").exists())
    workers = children(process.pid)
    victim = next(worker for worker in workers if "spawn_main" in Path(f"/proc/{worker}/cmdline").read_text())
    os.kill(victim, signal.SIGKILL)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "a worker ended with code -9" in shown
    assert "Traceback" not in shown
    wait_until(lambda: not any(map(is_running, workers)), 30)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_cut_short_on_the_way_is_named_once(tmp_path, large, workers):
    folder, _ = large
    source = tmp_path / "source.ckpt"
    subprocess.run(command("convert", folder, source), check=True, capture_output=True)
    subprocess.run(command("shard", source, tmp_path / "parts", "--layout", "1x2x1"), check=True, capture_output=True)
    shard = tmp_path / "parts/rank_1/checkpoint_1.ckpt"
    os.truncate(shard, shard.stat().st_size // 2)
    (tmp_path / "parts/manifest.json").unlink()  # which would say so at once, by the size
    done = subprocess.run(
        command("reshard", tmp_path / "parts", tmp_path / "out", "--layout", "1x1x1", "--workers", workers),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.count("error:") == 1
    assert f"{shard}: is cut short" in done.stderr
    assert not list(tmp_path.glob("out/rank_*/*.ckpt"))
