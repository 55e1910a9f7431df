"""Which rank `codellama infer` is, and what its ranks must have in common."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.config.sections_parallel import ContextSection
    from mindformers_codellama.mindir.manifest import ExportManifest

SHARED = (
    *("predict_data", "prompt", "batch_size", "generated_time", "add_special_tokens", "do_sample", "top_k", "top_p", "temperature"),
    *("repetition_penalty", "max_length", "max_output_length", "dynamic"),
)
"""Flags that every rank must be given alike."""


def place_of(flag: str, given: int | None, variable: str) -> int:
    """A number of the command line, else a launcher's, else 0.

    Raises:
        ConfigError: it is negative.
    """
    if given is not None:
        if given < 0:
            raise ConfigError(flag, f"got {given}, must be at least 0.")
        return given
    stated = os.environ.get(variable, "")
    return int(stated) if stated.isdecimal() else 0


def enter_job(stack: ExitStack, arguments: argparse.Namespace, folder: Path, place: tuple[int, int], ranks: int) -> None:
    """Place this process among its ranks; leave when the stack is closed.

    Args:
        stack: closed when the answers have been given.
        arguments: parsed.
        folder: the export directory.
        place: rank and device of this process.
        ranks: of the export.

    Raises:
        ConfigError: there is no such rank.
        ClusterError: another process is this rank, or the ranks do not meet.
    """
    from mindformers_codellama.cluster.rank_lock import only_process
    from mindformers_codellama.cluster.unlaunched import joined
    from mindformers_codellama.mindir.open import LITE

    rank, device = place
    if rank >= ranks:
        raise ConfigError("--rank_id", f"got {rank}, but the graphs are for {ranks} ranks, counted from 0.")
    if arguments.engine == LITE:  # HCCL brings the ranks together
        stack.enter_context(only_process(rank, f"over {folder.resolve()} on device {device}"))
    else:
        stack.enter_context(joined(rank, ranks, what=str(folder.resolve()), device=device))


def agree(arguments: argparse.Namespace, ranks: int) -> None:
    """Every rank was asked the same: one that ended its answer earlier would leave the others waiting.

    Raises:
        ConfigError: the flags differ.
    """
    from mindformers_codellama.layout.ranks import Layout
    from mindformers_codellama.parallel.agreement import gather
    from mindformers_codellama.parallel.comm import join

    shared = {name: value for name, value in vars(arguments).items() if name in SHARED}
    asked = gather(join(Layout(model_parallel=ranks)), shared, doing="agreeing on the prompt")
    for rank, other in enumerate(asked):
        different = [name for name in SHARED if other[name] != shared[name]]
        if different:
            name = different[0]
            problem = f"is {shared[name]!r} here and {other[name]!r} on rank {rank}."
            raise ConfigError(f"--{name}", problem, fix="start every rank with the same flags, but for --rank_id and --device_id.")


def context_of(manifest: ExportManifest, device: int) -> ContextSection:
    """Where the engine graph runs: on Ascend when the graphs were exported for it and there is one."""
    from mindformers_codellama.cli.launch import NPU
    from mindformers_codellama.config.sections_parallel import ContextSection

    if manifest.target == "ascend" and NPU.exists():
        return ContextSection(device_target="Ascend", device_id=device)
    return ContextSection(device_target="CPU")
