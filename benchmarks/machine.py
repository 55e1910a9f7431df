"""Limits of this machine, measured: read bandwidth and peak arithmetic with a number of threads.

    python machine.py [THREADS]

Compiles machine.c with the system's C compiler; without one, numpy reads and multiplies, which is told in `how` and
underestimates the arithmetic.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).with_name("machine.c")


def measure_machine(threads: int) -> dict[str, object]:
    """`read_bytes`, `float32_ops`, `bfloat16_ops` and `int8_ops` per second; 0 where there is no such instruction."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return measure_with_numpy(threads)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "machine"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(program)], check=True)
        done = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout) | {"how": "machine.c", "version": "machine.c"}


def measure_with_numpy(threads: int) -> dict[str, object]:
    """The same without a compiler."""
    import numpy as np

    arrays = [np.ones(1 << 26, np.uint64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        best = 0.0
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.sum, arrays))
            best = max(best, sum(array.nbytes for array in arrays) / (time.perf_counter() - start))
    square = np.ones((2048, 2048), np.float32)
    rate = 0.0
    for _ in range(5):
        start = time.perf_counter()
        square @ square
        rate = max(rate, 2 * 2048**3 / (time.perf_counter() - start))
    return {"read_bytes": best, "float32_ops": rate, "bfloat16_ops": 0.0, "int8_ops": 0.0, "how": "numpy", "version": "numpy"}


if __name__ == "__main__":
    print(json.dumps(measure_machine(int(sys.argv[1]) if len(sys.argv) > 1 else 2)))
