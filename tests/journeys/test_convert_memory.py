"""Memory does not grow with the checkpoint: 208 MB are converted within the memory of one of its tensors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_codellama.checkpoint.hf_config import hf_config
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes, to_theirs
from mindformers_codellama.config.model_config import ModelConfig

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc (Linux)")

SIZES = {"vocab_size": 16000, "hidden_size": 512, "num_layers": 12, "num_heads": 8, "num_kv_heads": 8, "intermediate_size": 1376}

# VmHWM, not getrusage: ru_maxrss survives exec, so a child of a large pytest process starts with that process's peak.
WORKER = """
import json, re, sys
from mindformers_codellama.checkpoint.convert import convert
import mindformers_codellama.checkpoint.directories, tqdm, ml_dtypes
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3], to=sys.argv[4])
print(json.dumps([before, peak()]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "hf"
    folder.mkdir()
    config = ModelConfig(**SIZES, seq_length=64, max_position=64)
    weights = {to_theirs(name): np.full(shape, 0.5, np.float32) for name, shape in expected_shapes(Sizes.of(config)).items()}
    assert sum(value.nbytes for value in weights.values()) > 200e6
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(config, "float32")))
    yield folder, max(value.nbytes for value in weights.values())
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(("dtype", "to"), [("keep", "ms"), ("bfloat16", "hf")])
def test_converting_takes_less_memory_than_two_of_its_tensors(tmp_path, large, dtype, to):
    folder, largest = large
    target = tmp_path / ("x.ckpt" if to == "ms" else "out")
    words = [sys.executable, "-c", WORKER, str(folder), str(target), dtype, to]
    before, peak = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    # measured above what the imports take: pieces of 8 MB and their casts; the largest tensor has 33 MB, the file 208 MB
    assert peak - before < 2 * largest
    assert peak < 2 * largest + (400 << 20)
