"""The engine of an installed MindFormers 1.9: its network, its parallelism, its Trainer; our YAML, data and checkpoints.

MindFormers starts the communication between ranks itself; nothing of `parallel.comm` is called.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mindformers_codellama.checkpoint.latest import get_last_checkpoint
from mindformers_codellama.config.check import notes, rank_count, require_engine, run_findings
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.engines.mindformers_keys import MINDFORMERS_VERSION, MINDSPORE_VERSION
from mindformers_codellama.engines.protocol import Report
from mindformers_codellama.engines.translate import Found, Translation, translate
from mindformers_codellama.engines.weights import weights_for_mindformers
from mindformers_codellama.errors import CodeLlamaError, ConfigError, EnvironmentFault, GenerationError, TrainingError, raise_all
from mindformers_codellama.text.auto import AutoTokenizer

logger = logging.getLogger(__name__)

INSTALL = 'pip install "mindformers_codellama[mindformers]" in an environment of its own (MindSpore 2.9), or write engine: native.'
LONGEST_MESSAGE = 600
"""Characters of a message of MindFormers that are shown."""


def require_mindformers() -> None:
    """Raise when MindFormers 1.9 on MindSpore 2.9 is not what is installed; nothing is imported.

    Raises:
        EnvironmentFault: absent, or of another version.
    """
    for package, wanted in (("mindformers", MINDFORMERS_VERSION), ("mindspore", MINDSPORE_VERSION)):
        try:
            found = version(package)
        except PackageNotFoundError as error:
            raise EnvironmentFault("engine", f"mindformers needs {package} {wanted}*, which is not installed.", fix=INSTALL) from error
        if not found.startswith(wanted):
            raise EnvironmentFault("engine", f"mindformers needs {package} {wanted}*, but {found} is installed.", fix=INSTALL)


class MindFormersEngine:
    """`engine: mindformers`."""

    name = "mindformers"

    def train(self, run: RunConfig) -> Report:
        """MindFormers' Trainer on `train_dataset`; checkpoints have our names and load in the native engine."""
        trainer = self.open(run)
        with told("training", TrainingError, run):
            trainer.train()
        found = newest_checkpoints(run)
        return Report(engine=self.name, action=run.run_mode, lines=tuple(f"{name}: {path}" for name, path in found.items()))

    def evaluate(self, run: RunConfig) -> Report:
        """MindFormers' PerplexityMetric on `eval_dataset`: the mean of batch means."""
        trainer = self.open(run)
        with told("evaluation", TrainingError, run):
            trainer.evaluate(eval_checkpoint=trainer.config.load_checkpoint)
            result = trainer.trainer.compute_metrics["PerplexityMetric"].eval()
        numbers = {"loss": result["loss"], "perplexity": result["PPL"]}
        line = f"loss {numbers['loss']:.4f}, PPL {numbers['perplexity']:.3f} (mean of batches, by MindFormers)"
        return Report(engine=self.name, action=run.run_mode, lines=(line,), numbers=numbers)

    def predict(self, run: RunConfig, prompts: Sequence[str]) -> Report:
        """MindFormers' pipeline; it also writes `text_generation_result.txt` in the working directory."""
        rows = run.predict_batch_size or run.model.batch_size
        if len(prompts) % rows:
            fix = "write predict_batch_size: 1, or give more prompts."
            raise ConfigError(
                "predict_batch_size", f"got {rows}, must divide the number of prompts ({len(prompts)}) in MindFormers.", fix=fix
            )
        trainer = self.open(run)
        with told("prediction", GenerationError, run):
            results = trainer.predict(
                predict_checkpoint=trainer.config.load_checkpoint, input_data=list(prompts), batch_size=rows if rows > 1 else None
            )
        texts = tuple(text for result in results for text in result["text_generation_text"])
        return Report(engine=self.name, action=run.run_mode, lines=texts, texts=texts)

    def open(self, run: RunConfig) -> Any:
        """MindFormers' Trainer for this run, its context entered and, with several ranks, its communication started.

        Raises:
            ConfigError: findings; `Findings` when there are several.
            EnvironmentFault: MindFormers is not installed or of another version, or does not start.
            CheckpointError: weights that cannot be read or converted.
        """
        require_engine(run, self.name)
        ranks = rank_count()
        raise_all(run_findings(run, ranks=ranks))
        require_mindformers()
        translation = prepare(run, ranks=ranks)
        for note in (*notes(run), *translation.notes):
            logger.warning("%s", note)
        logger.info("engine: MindFormers %s on MindSpore %s", version("mindformers"), version("mindspore"))
        with told("the start", EnvironmentFault, run):
            return start(translation.values, run)


def prepare(run: RunConfig, *, ranks: int | None = None) -> Translation:
    """The translation with everything it names on disk: converted weights and the tokenizer's file."""
    device = os.environ.get("DEVICE_ID", "")
    vocab_file = ""
    if run.run_mode == "predict":
        section = run.processor.tokenizer
        if not (section.vocab_file or run.trainer.model_name):
            fix = "write processor.tokenizer.vocab_file: PATH."
            raise ConfigError("processor.tokenizer.vocab_file", "no tokenizer is named, and trainer.model_name is empty.", fix=fix)
        vocab_file = str(AutoTokenizer.from_pretrained(section.vocab_file or run.trainer.model_name).path)
    found = Found(
        weights=weights_for_mindformers(run, ranks=ranks if run.use_parallel else None),
        vocab_file=vocab_file,
        device_id=int(device) if device.isdecimal() else None,
        most_workers=os.cpu_count(),
    )
    return translate(run, found)


def start(values: dict[str, Any], run: RunConfig) -> Any:
    """What MindFormers' `run_mindformer.py` does before it trains: template, context, Trainer."""
    os.environ.setdefault("LOG_MF_PATH", str((Path(run.output_dir).expanduser() / "log").resolve()))  # else ./output/log, at import
    from mindformers import MindFormerConfig, Trainer
    from mindformers.core.context import build_context
    from mindformers.tools.register.template import ConfigTemplate

    ConfigTemplate.apply_template(values)
    config = MindFormerConfig(**values)
    build_context(config)
    trainer = Trainer(config)
    if run.context.device_target == "CPU":
        from mindformers_codellama.engines.mindformers_cpu import prepare_cpu

        prepare_cpu(trainer.trainer)
    return trainer


@contextmanager
def told(what: str, kind: type[CodeLlamaError], run: RunConfig) -> Iterator[None]:
    """Faults inside MindFormers in one message; CODELLAMA_TRACEBACK shows where they come from.

    Raises:
        CodeLlamaError: of `kind`.
    """
    try:
        yield
    except CodeLlamaError:
        raise
    except Exception as error:
        text = shortened(str(error))
        fix = f"CODELLAMA_TRACEBACK=1 shows where; MindFormers' log is in {run.output_dir}/log."
        raise kind("MindFormers", f"{what} stopped with {type(error).__name__}: {text}", fix=fix) from error


def shortened(message: str) -> str:
    """A message of MindSpore in one line: without rulers, and without the call stacks that stand behind it."""
    kept: list[str] = []
    for line in message.splitlines():
        if "Call Stack" in line:
            break
        if line.strip(" -"):
            kept.append(line.strip())
    text = " ".join(kept)
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."


def newest_checkpoints(run: RunConfig) -> dict[str, str]:
    """The newest resumable checkpoint and weights of rank 0, where they are on this machine."""
    monitor = run.checkpoint_monitor
    root = Path(run.output_dir).expanduser()
    folders = {
        "checkpoint": Path(monitor.directory).expanduser() if monitor and monitor.directory else root / "checkpoint",
        "weights alone": root / "checkpoint_network",
    }
    found = {name: get_last_checkpoint(folder / "rank_0") for name, folder in folders.items() if (folder / "rank_0").is_dir()}
    return {name: path for name, path in found.items() if path}
