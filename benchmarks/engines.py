"""Opens the inference engine a job names. Each is imported only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from inference_tasks import Engine, OpenEngine
from jobs import LLAMA_CPP, OURS, PLAIN, TRANSFORMERS, Job, Unavailable
from shapes import SHAPES, SOURCE, gguf_file, our_folder


def opener(job: Job) -> OpenEngine:
    """A function of (rows, positions) that loads the model of the job."""
    if job.engine == LLAMA_CPP:
        return lambda rows, positions: open_llama_cpp(job, rows, positions)
    if job.engine == TRANSFORMERS:
        return lambda rows, positions: open_transformers(job, positions)
    assert job.engine in (OURS, PLAIN), job.engine
    return lambda rows, positions: open_ours(job)


def open_llama_cpp(job: Job, rows: int, positions: int) -> Engine:
    from engine_llama_cpp import LlamaCpp

    path = Path(job.models) / gguf_file(job.shape, job.form)
    if not path.exists():
        raise Unavailable(f"{path.name} is not in the folder of models")
    return LlamaCpp(path, rows=rows, positions=positions, threads=job.threads)


def open_transformers(job: Job, positions: int) -> Engine:
    from engine_transformers import Transformers

    if job.form not in ("float32", "bfloat16"):
        raise Unavailable(f"transformers on CPU has no {job.form} weights of its own")
    file = Path(job.models) / our_folder(job.shape, SOURCE if job.form == "bfloat16" else job.form) / "model.safetensors"
    if not file.exists():
        raise Unavailable(f"{file.parent.name} is not in the folder of models")
    return Transformers(SHAPES[job.shape], job.form, file=file, positions=positions, threads=job.threads)


def open_ours(job: Job) -> Engine:
    """Rows and positions are taken when they are needed."""
    from engine_ours import Ours

    return Ours(job)
