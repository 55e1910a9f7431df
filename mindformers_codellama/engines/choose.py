"""The engine a configuration names. There is no second choice."""

from __future__ import annotations

from dataclasses import replace

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.engines.protocol import Engine, Report
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.pipelines.prompt_files import read_prompts


def open_engine(name: str) -> Engine:
    """The engine of that name; nothing is imported before it is used.

    Raises:
        ConfigError: no such engine.
    """
    if name == "native":
        from mindformers_codellama.engines.native import NativeEngine

        return NativeEngine()
    if name == "mindformers":
        from mindformers_codellama.engines.mindformers import MindFormersEngine

        return MindFormersEngine()
    raise ConfigError("engine", f"got {name!r}.", fix="one of native, mindformers.")


def run_with_engine(run: RunConfig) -> Report:
    """What `run_mode` says, by the engine the configuration names.

    Raises:
        ConfigError: `export`, or a prediction without prompts.
        CodeLlamaError: as the engine.
    """
    engine = open_engine(run.engine)
    if run.run_mode in ("train", "finetune"):
        return engine.train(run)
    if run.run_mode == "eval":
        return engine.evaluate(run)
    if run.run_mode == "predict":
        if not run.input_data:
            fix = 'give --predict_data "TEXT" or a file with a prompt per line.'
            raise ConfigError("predict_data", "there is nothing to predict.", fix=fix)
        return engine.predict(replace(run, input_data=()), read_prompts(run.input_data))
    fix = "one of train, finetune, eval, predict; `codellama export` exports."
    raise ConfigError("run_mode", f"{run.run_mode} is not run by an engine.", fix=fix)
