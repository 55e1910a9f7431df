"""Keeps MindSpore's scheduler until the last rank of a job that a shell started has ended; run as a program by rank 0.

    python -m mindformers_codellama.cluster.scheduler_keeper JOB RANKS

MindSpore's ranks still talk to the scheduler while their processes end, so none of them can be the one that stops it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from mindformers_codellama.cluster.launch_ranks import SCHEDULER
from mindformers_codellama.cluster.rank_lock import is_running

POLL = 0.2


def keep(job: str, ranks: int, *, command: Sequence[str] = SCHEDULER) -> None:
    """Start the scheduler, and kill it when no rank of the job runs any more.

    Args:
        job: name of the ranks' locks.
        ranks: of the job; rank 0 runs already.
        command: the scheduler.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever asks the ranks to stop still needs it
    scheduler = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - MindSpore's own
    while any(is_running(rank, job) for rank in range(ranks)):
        time.sleep(POLL)
    scheduler.kill()
    scheduler.wait()


if __name__ == "__main__":
    keep(sys.argv[1], int(sys.argv[2]))
