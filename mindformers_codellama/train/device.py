"""Device, kernels and types of a run, settled before anything is built."""

from __future__ import annotations

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import raise_all
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.model.kernels import kernel_findings
from mindformers_codellama.runtime.context import enter_context


def enter_run(run: RunConfig) -> None:
    """Set MindSpore's context and choose the kernels.

    Raises:
        ConfigError: a device, a level of the kernels or a type that is not there.
        EnvironmentFault: a device or a library that cannot be used.
    """
    context = run.context
    enter_context(context)
    choose_kernels(run.kernels, device=context.device_target, threads=context.runtime_num_threads)
    raise_all(kernel_findings(run.model.config))
