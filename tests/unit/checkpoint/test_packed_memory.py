"""Memory does not grow with the checkpoint: 208 MB are packed within the bound of docs/quantization.md."""

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
from mindformers_codellama.checkpoint.quantize import quantize_checkpoint
from mindformers_codellama.checkpoint.packed_open import open_packed
import tqdm, ml_dtypes
def memory(key): return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = memory("VmHWM")
quantize_checkpoint(sys.argv[1], sys.argv[2], scheme=sys.argv[3])
peak, held = memory("VmHWM"), memory("VmRSS")
opened = open_packed(sys.argv[2]).model()
print(json.dumps([before, peak, memory("VmRSS") - held, sum(array.nbytes for array in opened.arrays.values())]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "hf"
    folder.mkdir()
    config = ModelConfig(**SIZES, seq_length=64, max_position=64)
    rng = np.random.default_rng(0)
    weights = {to_theirs(name): rng.standard_normal(shape, np.float32) for name, shape in expected_shapes(Sizes.of(config)).items()}
    assert sum(value.nbytes for value in weights.values()) > 200e6
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(config, "float32")))
    yield folder, max(value.nbytes for value in weights.values())
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("scheme", ["bf16", "w4"])
def test_packing_takes_bounded_memory_and_opening_reads_nothing(tmp_path, large, scheme):
    folder, largest = large
    words = [sys.executable, "-c", WORKER, str(folder), str(tmp_path / "out"), scheme]
    before, peak, opened, size = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    # A block of 16 MB in float32, its packed form and the temporaries of measuring the error, in float64, make about 120 MB
    # whatever the size of the checkpoint; holding all 208 MB would break the first bound.
    assert peak - before < 180e6
    assert peak < 2 * largest + (400 << 20)
    assert opened < size / 4, "weights are mapped, not read"
