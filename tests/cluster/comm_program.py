"""One rank: joins 2x2x2 and says what it hears from the others. Run by test_comm.py."""

import sys

import mindspore as ms
import numpy as np
from mindspore import ops

from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.layout.ranks import AXES, Layout
from mindformers_codellama.parallel.comm import join
from mindformers_codellama.runtime.context import enter_context

enter_context(ContextSection(device_target="CPU", runtime_num_threads=1))
data, model, stages = map(int, sys.argv[1:4])
comm = join(Layout(data_parallel=data, model_parallel=model, pipeline_stage=stages))
for name in AXES:
    axis = getattr(comm, name)
    mine = ms.Tensor(np.array([1 << comm.rank], np.float32))
    members = int(ops.AllReduce(group=axis.group)(mine).asnumpy()[0]) if axis.size > 1 else 1 << comm.rank
    assert members == sum(1 << rank for rank in comm.layout.group(name, comm.rank)), (name, members)
assert comm.gather_objects(("rank", comm.rank)) == [("rank", rank) for rank in range(comm.layout.ranks)]
if comm.stage.size > 1:
    other = comm.layout.group("stage", comm.rank)
    if comm.stage.index == 0:
        comm.send(ms.Tensor(np.full((2, 3), comm.rank, np.float32)), other[1])
    elif comm.stage.index == 1:
        assert (comm.receive((2, 3), ms.float32, other[0]).asnumpy() == other[0]).all()
comm.wait_for_all()
print("all right")
