"""`init_context`: MindFormers' way into the context and into the job, for its scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_codellama.config.read import read_section
from mindformers_codellama.config.sections_parallel import ContextSection, ParallelSection
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.parallel.comm import connect
from mindformers_codellama.runtime.context import enter_context


def init_context(use_parallel: bool = False, context_config: Any = None, parallel_config: Any = None) -> tuple[int, int]:
    """Set device and mode; with `use_parallel` join the job this process was started in as one rank.

    Models that are built afterwards from a `LlamaConfig` take the degrees of its `parallel_config`.

    Args:
        use_parallel: there are several ranks, started by `codellama launch`, one of its scripts or msrun.
        context_config: section `context` as a mapping, a `ContextConfig` or a `ContextSection`.
        parallel_config: section `parallel`, likewise; read only when `use_parallel` is True.

    Returns:
        (rank, number of ranks); (0, 1) without `use_parallel`.

    Raises:
        ConfigError: unknown keys or values, or a `parallel_mode` that is not available.
        ClusterError: `use_parallel` in a process that was not started as a rank, or a job that does not form.
    """
    context = context_config
    if not isinstance(context, ContextSection):
        context = read_section(ContextSection, _as_mapping(context_config), name="context")
    if not use_parallel:
        enter_context(context)
        return 0, 1
    parallel = parallel_config
    if not isinstance(parallel, ParallelSection):
        parallel = read_section(ParallelSection, _as_mapping(parallel_config), name="parallel")
    if parallel.parallel_mode > 1:
        problem = f"got {parallel.parallel_mode}, but degrees are not searched for and operators are not cut one by one."
        raise ConfigError("parallel.parallel_mode", problem, fix="write 1 (semi_auto_parallel) or 0 (data_parallel).")
    enter_context(context)
    return connect()


def _as_mapping(settings: Any) -> Mapping[str, Any]:
    """A mapping, the attributes of an object, or nothing, as a mapping without None values."""
    if settings is None:
        return {}
    values = settings if isinstance(settings, Mapping) else vars(settings)
    return {str(key): value for key, value in values.items() if value is not None and not str(key).startswith("_")}
