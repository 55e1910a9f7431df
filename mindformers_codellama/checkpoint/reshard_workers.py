"""Several processes that each write the files of some ranks; one that fails ends all."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from mindformers_codellama.checkpoint.files import FileRecord
from mindformers_codellama.checkpoint.open import CheckpointReader
from mindformers_codellama.checkpoint.reshard_write import ShardJob, write_rank
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, Findings, raise_all

_REPORT_BYTES = 16 << 20
"""Bytes between two reports of progress."""


def write_all(
    job: ShardJob,
    reader: CheckpointReader,
    ranks: Sequence[int],
    workers: int,
    on_bytes: Callable[[int], object],
    on_file: Callable[[int, FileRecord], object],
) -> None:
    """Write the files of `ranks`.

    Args:
        job: what.
        reader: the opened source; workers open it for themselves.
        ranks: whose files.
        workers: processes; with 1 this process writes.
        on_bytes: called with numbers of tensor bytes written.
        on_file: called with every finished file and its rank.

    Raises:
        CheckpointError: of the first worker that fails; the others are stopped.
    """
    if workers <= 1 or len(ranks) <= 1:
        for rank in ranks:
            on_file(rank, write_rank(job, reader, rank, on_bytes))
        return
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, SpawnProcess] = {}
    try:
        for number in range(min(workers, len(ranks))):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, ranks[number::workers], there), daemon=True)
            process.start()
            there.close()
            running[here] = process
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                if not _hear(ready, running[ready], on_bytes, on_file):
                    running.pop(ready).join()
    finally:
        for process in running.values():
            process.kill()
            process.join()


def _hear(pipe: Connection, process: SpawnProcess, on_bytes: Callable[[int], object], on_file: Callable[[int, FileRecord], object]) -> bool:
    """Take one message; False when the worker is done."""
    try:
        kind, content = pipe.recv()
    except EOFError:
        process.join()
        problem = f"a worker ended with code {process.exitcode} before its files were written."
        fix = "look for a lack of memory; run again to go on, perhaps with fewer workers."
        raise CheckpointError("--workers", problem, fix=fix) from None
    if kind == "bytes":
        on_bytes(content)
    elif kind == "file":
        on_file(*content)
    elif kind == "errors":
        raise_all(CheckpointError(where, problem, fix=fix) for where, problem, fix in content)
    return bool(kind != "done")


def _work(job: ShardJob, ranks: Sequence[int], pipe: Connection) -> None:
    """One worker; it ends by itself when nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops workers
    waiting = 0

    def on_bytes(count: int) -> None:
        nonlocal waiting
        waiting += count
        if waiting >= _REPORT_BYTES:
            try:
                pipe.send(("bytes", waiting))
            except BrokenPipeError:  # inside a file, where an OSError would be taken for a full disk
                raise SystemExit(1) from None
            waiting = 0

    try:
        reader = replace(job.source, verify=False).open()  # the parent has compared the copies
        for rank in ranks:
            record = write_rank(job, reader, rank, on_bytes)
            pipe.send(("bytes", waiting))
            waiting = 0
            pipe.send(("file", (rank, record)))
        pipe.send(("done", None))
    except CodeLlamaError as error:
        pipe.send(("errors", _plain(error)))
    except BrokenPipeError:
        return


def _plain(error: CodeLlamaError) -> list[tuple[Any, str, str]]:
    """An error as it can be sent."""
    found = list(error) if isinstance(error, Findings) else [error]
    return [(one.where, one.problem, one.fix) for one in found]
