"""Many samples judged, several at once; what an interrupted run has judged is not judged again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindformers_codellama.evaluation.judge import judge
from mindformers_codellama.evaluation.problems import Problem, Problems
from mindformers_codellama.evaluation.samples import LineFile, Place, drop_stale_verdicts, read_verdicts, verdict_record
from mindformers_codellama.evaluation.sandbox import Limits, Sandbox


def conditions_of(problems: Problems[Problem], sandbox: Sandbox, limits: Limits) -> dict[str, Any]:
    """What a verdict depends on beside the sample."""
    return {"data_sha256": problems.sha256, "sandbox": sandbox.name, **asdict(limits)}


def score(  # noqa: PLR0913 - what a run is made of
    samples: Mapping[Place, str],
    problems: Problems[Problem],
    sandbox: Sandbox,
    limits: Limits,
    results: Path,
    *,
    every: Mapping[Place, str] | None = None,
    workers: int = 0,
    on_verdict: Callable[[int, int], object] | None = None,
) -> dict[Place, str]:
    """The result of every sample: `passed`, `timed out`, or `failed: ` and why.

    Args:
        samples: completions.
        problems: holds their tasks.
        sandbox: where programs run.
        limits: of each.
        results: JSON lines that are written as verdicts come; those there that still hold are taken, others of ours taken out.
        every: completions of tasks that are not wanted now, too, whose verdicts stay; None is `samples`.
        workers: samples at once; 0 is the number of cores.
        on_verdict: called with (done, all).

    Raises:
        EnvironmentFault: the sandbox failed. What was judged is kept, then as after Ctrl-C.
    """
    conditions = conditions_of(problems, sandbox, limits)
    drop_stale_verdicts(results, samples if every is None else every, conditions)
    found = read_verdicts(results, samples, conditions)
    left = [place for place in samples if place not in found]
    stop = threading.Event()
    told = on_verdict or (lambda done, total: None)
    told(len(found), len(samples))
    with LineFile(results) as file, ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        jobs = {pool.submit(judge, problems.tasks[place.task_id], samples[place], sandbox, limits, stop=stop): place for place in left}
        try:
            for job in as_completed(jobs):
                place = jobs[job]
                found[place] = job.result().result
                file.write([verdict_record(place, samples[place], found[place], conditions)])
                told(len(found), len(samples))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return found
