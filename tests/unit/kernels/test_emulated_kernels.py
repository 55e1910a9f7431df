"""The kernels of aarch64, compiled with a cross compiler and run under qemu, in the kernels' own tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emulated_library import VARIABLE

from mindformers_codellama.kernels.build import build

HERE = Path(__file__).parent
COMPILER, EMULATOR, SYSTEM = "aarch64-linux-gnu-g++", "qemu-aarch64-static", "/usr/aarch64-linux-gnu"
TESTS = ("norm", "linear", "packed", "forward", "attention_training", "head_loss", "training_elementwise")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """Emulator, program and library."""
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static)")
    folder = Path(os.environ.get("CODELLAMA_EMULATED_BUILD") or tmp_path_factory.mktemp("aarch64"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", COMPILER)
        assert build(folder / "lib.so", machine="aarch64") == ["portable", "neon"]
    program = folder / "serve"
    subprocess.run([COMPILER, "-std=c++17", "-O2", HERE / "programs/serve_kernels.cpp", "-o", program, "-ldl"], check=True)
    return f"{EMULATOR} -L {SYSTEM} {program} {folder / 'lib.so'}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_of_aarch64(machine):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(HERE / f"test_{name}_kernel.py") for name in TESTS)]
    words += ["-k", "not an_open_model"]  # it keeps addresses of this process, which the emulated one does not have
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {VARIABLE: machine})
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
