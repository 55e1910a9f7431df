"""Peak memory of `codellama convert` on a synthetic Hugging Face checkpoint.

Makes a sharded float16 directory with the shapes of a Llama (content repeats, so making it is cheap), converts
it to .ckpt, back, and with a cast to float32, each in its own process, and prints the peak resident memory of
that process (VmHWM of /proc/self/status) beside the bound 2 x largest tensor + 400 MB. Everything is deleted again.

    python benchmarks/convert_memory.py --dir /tmp/convert_memory            # 7B: 13.5 GB, needs 41 GB of disk
    python benchmarks/convert_memory.py --layers 14 --dir /tmp/convert_memory   # 6.2 GB, needs 19 GB
    python benchmarks/convert_memory.py --form bin                           # pytorch_model*.bin (needs torch to write it)
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mindformers_codellama.checkpoint.convert import Options, convert
from mindformers_codellama.checkpoint.directories import Companions, write_hf
from mindformers_codellama.checkpoint.tensors import CHUNK_BYTES, array_chunks
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes
from mindformers_codellama.config.model_config import ModelConfig

SLACK_BYTES = 400 << 20
STEPS = (("hf", "x.ckpt", "ms", "keep"), ("x.ckpt", "back", "hf", "keep"), ("hf", "y.ckpt", "ms", "float32"))


class Repeated:
    """A tensor whose values repeat, so that it needs no memory of its size."""

    dtype = "float16"

    def __init__(self, shape):
        self.shape = shape
        self._block = np.random.default_rng(0).standard_normal(CHUNK_BYTES // 2).astype(np.float16)

    def read(self):
        return np.resize(self._block, self.shape)

    def chunks(self):
        left = int(np.prod(self.shape))
        while left:
            yield from array_chunks(self._block[:left])
            left -= min(left, self._block.size)


def model_config(arguments):
    return ModelConfig(
        vocab_size=arguments.vocab,
        hidden_size=arguments.hidden,
        num_layers=arguments.layers,
        num_heads=arguments.hidden // 128,
        num_kv_heads=arguments.hidden // 128,
        intermediate_size=arguments.intermediate,
        max_position=16384,
        rope_theta=1e6,
    )


def make_source(folder, config, form):
    """Write the checkpoint in shards of 2 GB; its size and its largest tensor in bytes."""
    shapes = expected_shapes(Sizes.of(config))
    tensors = {name: Repeated(shape) for name, shape in shapes.items()}
    write_hf(folder, tensors, Companions(config, None), max_shard_bytes=2_000_000_000)
    sizes = [2 * int(np.prod(shape)) for shape in shapes.values()]
    if form == "bin":
        safetensors_to_bin(folder)
    return sum(sizes), max(sizes)


def safetensors_to_bin(folder):
    """The same shards as torch.save writes them."""
    import torch
    from safetensors.torch import load_file

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in sorted(folder.glob("model-*.safetensors")):
        torch.save(load_file(file), folder / file.name.replace("model", "pytorch_model").replace(".safetensors", ".bin"))
        file.unlink()
    index["weight_map"] = {
        name: file.replace("model", "pytorch_model").replace(".safetensors", ".bin") for name, file in index["weight_map"].items()
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").unlink()


def worker(source, target, to, dtype):
    """Convert in this process and print its peak memory as JSON."""
    started = time.monotonic()
    report = convert(source, target, to=to, dtype=dtype, progress=False, options=Options(max_shard_bytes=2_000_000_000))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps({"peak": peak, "seconds": time.monotonic() - started, "written": report.bytes_written}))


def measure(source, target, to, dtype):
    words = [sys.executable, __file__, "--worker", str(source), str(target), to, dtype]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("/tmp/convert_memory"), help="scratch directory, deleted at the end")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=11008)
    parser.add_argument("--vocab", type=int, default=32016)
    parser.add_argument("--form", choices=("safetensors", "bin"), default="safetensors")
    parser.add_argument("--worker", nargs=4, metavar=("SRC", "DST", "TO", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return 0
    if arguments.dir.exists():
        parser.error(f"{arguments.dir} exists; it would be deleted")
    config = model_config(arguments)
    try:
        total, largest = make_source(arguments.dir / "hf", config, arguments.form)
        bound = 2 * largest + SLACK_BYTES
        print(f"source: {total / 1e9:.2f} GB {arguments.form}, largest tensor {largest / 1e6:.0f} MB; bound {bound / 1e6:.0f} MB")
        print(f"python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
        within = True
        for source, target, to, dtype in [
            ("hf", "x.ckpt", "ms", "keep"),
            ("x.ckpt", "back", "hf", "keep"),
            ("hf", "y.ckpt", "ms", "float32"),
        ]:
            found = measure(arguments.dir / source, arguments.dir / target, to, dtype)
            within = within and found["peak"] <= bound
            rate = found["written"] / found["seconds"] / 1e6
            name = f"{source} -> {target} ({to}, {dtype})"
            print(f"{name:36} peak {found['peak'] / 1e6:6.0f} MB   {found['seconds']:6.1f} s   {rate:5.0f} MB/s written")
            if target == "back":
                shutil.rmtree(arguments.dir / "back")
                (arguments.dir / "x.ckpt").unlink()
        print("within the bound" if within else "ABOVE THE BOUND")
        return 0 if within else 1
    finally:
        shutil.rmtree(arguments.dir, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
