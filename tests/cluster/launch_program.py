"""One rank for test_launch_cluster.py and test_two_machines.py: joins, says the sum over all ranks, then goes on for some steps."""

import os
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import ops
from mindspore.communication import get_group_size, get_rank, init

from mindformers_codellama.cli.interrupts import interruptible

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
with interruptible():  # as every command of the package
    ms.set_device("CPU")
    init()
    rank = get_rank()
    assert (rank, get_group_size()) == (int(os.environ["RANK_ID"]), int(os.environ["RANK_SIZE"]))
    add = ops.AllReduce()
    total = add(ms.Tensor(np.array([1 << rank], np.float32))).asnumpy()[0]
    print(f"rank {rank} sum {int(total)}", flush=True)
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    for _ in range(steps):
        add(ms.Tensor(np.ones(1, np.float32))).asnumpy()
        time.sleep(0.2)
