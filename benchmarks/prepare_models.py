"""Makes the model files a set of jobs needs, once; they stay in the folder of models."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs import LLAMA_CPP, OURS, PLAIN, TRANSFORMERS, Job
from run_jobs import Pythons
from shapes import SOURCE, gguf_file, our_folder

HERE = Path(__file__).resolve().parent


def prepare_models(jobs: Sequence[Job], pythons: Pythons, *, say: Callable[[str], None]) -> None:
    """Write what is missing; a file that cannot be made is told, and its jobs will be shown as not run."""
    wanted = {(job.engine == LLAMA_CPP, job.shape, file_form(job), job.models) for job in jobs if needs_files(job)}
    for is_gguf, shape, form, folder in sorted(wanted):
        script = "gguf_files.py" if is_gguf else "our_files.py"
        python = pythons.llama_cpp if is_gguf else pythons.ours
        words = [python, str(HERE / script), "--shape", shape, "--form", form, "--folder", folder]
        try:
            done = subprocess.run(words, capture_output=True, text=True)
        except OSError as error:
            say(f"{script} --shape {shape} --form {form}: {error}")
            continue
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            say(f"{script} --shape {shape} --form {form}: {last}")


def needs_files(job: Job) -> bool:
    """Training draws its weights in memory."""
    return job.work != "training" and job.engine in (LLAMA_CPP, OURS, PLAIN, TRANSFORMERS)


def file_form(job: Job) -> str:
    """transformers reads bfloat16 where our packed forms are made of."""
    return SOURCE if job.engine == TRANSFORMERS and job.form == "bfloat16" else job.form


def warm_page_cache(jobs: Sequence[Job]) -> None:
    """Read the files of these jobs once, so that the first sample does not wait for the disk."""
    for job in jobs:
        path = Path(job.models) / (gguf_file(job.shape, job.form) if job.engine == LLAMA_CPP else our_folder(job.shape, job.form))
        for file in path.iterdir() if path.is_dir() else [path] * path.exists():
            with file.open("rb") as stream:
                while stream.read(1 << 24):
                    pass
