"""Does one job and prints its figures as one JSON line; started by compare.py, once per sample.

    python worker.py JOB            # JOB as jobs.py writes it

Exit code 3 and a line {"unavailable": REASON} mean that this side does not exist here. Imports happen inside the job:
the peers live in another environment than this package.
"""

from __future__ import annotations

import json
import sys
import time

START = time.perf_counter()

from jobs import COMPILED, EAGER, LLAMA_CPP, MACHINE, OURS, PLAIN, TRANSFORMERS, Job, Unavailable  # noqa: E402


def peak_memory() -> int:
    """Bytes this process ever had resident."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def do(job: Job) -> dict[str, object]:
    """Figures of a job.

    Raises:
        Unavailable: a missing package, file or ability.
    """
    if job.engine == MACHINE:
        from machine import measure_machine

        return measure_machine(job.threads)
    try:
        if job.work == "training":
            return train(job)
        if job.work == "first-token":
            from first_token import measure_first_token

            return measure_first_token(job, START)
        return infer(job)
    except ModuleNotFoundError as error:
        raise Unavailable(f"no module {error.name} for {sys.executable}") from error


def infer(job: Job) -> dict[str, object]:
    from engines import opener
    from inference_tasks import measure
    from shapes import SHAPES

    return measure(opener(job), SHAPES[job.shape], job.tasks, steps=job.steps, repeats=job.repeats)


def train(job: Job) -> dict[str, object]:
    if job.engine in (OURS, PLAIN):
        from training_ours import measure_training

        return measure_training(job)
    assert job.engine in (EAGER, COMPILED, TRANSFORMERS, LLAMA_CPP), job.engine
    from training_torch import measure_training as measure_torch

    return measure_torch(job)


def main() -> int:
    job = Job.from_json(sys.argv[1])
    try:
        figures = do(job)
    except Unavailable as reason:
        print(json.dumps({"unavailable": str(reason)}))
        return 3
    print(json.dumps(figures | {"peak_memory": peak_memory()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
