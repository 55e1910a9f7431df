"""MindSpore's context: device, mode and threads. No other module calls `mindspore.set_context` and its kin."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms

from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.errors import ConfigError, EnvironmentFault, first_line
from mindformers_codellama.runtime.cores import usable_cores

DEVICES = ("CPU", "Ascend")

logger = logging.getLogger(__name__)


def current_device() -> str:
    """`CPU` or `Ascend`: where Cells built now will run."""
    return str(ms.get_context("device_target"))


def is_eager() -> bool:
    """Whether Cells run operator by operator (PyNative) unless they are compiled one by one."""
    return bool(ms.get_context("mode") == ms.PYNATIVE_MODE)


def enter_context(context: ContextSection) -> None:
    """Set device, mode, recursion limit and threads. May be called again; the device stays what it first was.

    MindSpore's worker threads spin while they wait, so more of them than cores slow everything down:
    None of `runtime_num_threads` means the cores this process may use.

    Args:
        context: section `context`; on Ascend, DEVICE_ID of the environment wins over `device_id`.

    Raises:
        ConfigError: a device this package does not run on.
        EnvironmentFault: a device that this machine or MindSpore build does not have, or a second device.
    """
    if context.device_target not in DEVICES:
        raise ConfigError("context.device_target", f"got {context.device_target!r}.", fix=f"one of {', '.join(DEVICES)}.")
    _set_device(context)
    ms.set_context(mode=ms.PYNATIVE_MODE if context.mode == 1 else ms.GRAPH_MODE)
    ms.set_recursion_limit(context.max_call_depth)
    if context.save_graphs:
        ms.set_context(save_graphs=context.save_graphs, save_graphs_path=str(Path(context.save_graphs_path)))
    if context.jit_config.jit_level:
        ms.set_context(jit_config={"jit_level": context.jit_config.jit_level})
    threads = context.runtime_num_threads or usable_cores()
    if context.device_target == "CPU":
        _once(ms.device_context.cpu.op_tuning.threads_num, threads)
    else:
        _set_ascend(context, threads)
    mode = "PyNative" if context.mode == 1 else "graph"
    logger.info("MindSpore %s on %s, %s mode, %s threads", ms.__version__, context.device_target, mode, threads)


def _set_device(context: ContextSection) -> None:
    device_id = int(os.environ.get("DEVICE_ID", context.device_id))
    try:
        if context.device_target == "CPU":
            ms.set_device("CPU")
        else:
            ms.set_device(context.device_target, device_id)
    except (RuntimeError, ValueError) as error:
        named_before = "has been initialized" in str(error) or "can not be modified" in str(error)
        if named_before and current_device() == context.device_target == "CPU":
            return  # something ran before the device was named, or ranks were joined, on the one CPU there is
        problem = f"{context.device_target} cannot be used by this process: {first_line(error)}"
        fix = "write context.device_target: CPU, or install MindSpore for the device; one process keeps the device it began with."
        raise EnvironmentFault("context.device_target", problem, fix=fix) from error


def _set_ascend(context: ContextSection, threads: int) -> None:
    """Settings that only Ascend knows. Not run on Ascend."""
    _once(ms.runtime.dispatch_threads_num, threads)
    _once(lambda size: ms.runtime.set_memory(max_size=size), context.max_device_memory)
    if context.ascend_config.precision_mode:
        _once(ms.device_context.ascend.op_precision.precision_mode, context.ascend_config.precision_mode)


def _once(setter: Callable[[Any], object], value: int | str) -> None:
    """Set what MindSpore lets a process set only once; later calls keep the first value."""
    try:
        setter(value)
    except RuntimeError as error:
        if "repeatedly" not in str(error):
            raise
        logger.debug("kept as first set: %s", error)
