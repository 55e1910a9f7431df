"""One rank of two; rank 1 works longer than a collective waits."""

import time

from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.parallel.agreement import together
from mindformers_codellama.parallel.comm import join
from mindformers_codellama.runtime.context import enter_context

enter_context(ContextSection(device_target="CPU", runtime_num_threads=1))
comm = join(Layout(data_parallel=2))


def work():
    time.sleep(36 * comm.rank)
    return comm.rank


assert together(comm, work, doing="reading", slow=True) == comm.rank
assert comm.gather_objects(comm.rank) == [0, 1]
print("all right", flush=True)
