"""Weights in a form MindFormers reads: `.ckpt` files as they are, everything else converted first."""

from __future__ import annotations

import logging
from pathlib import Path

from mindformers_codellama.checkpoint.convert import convert
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import ConfigError

logger = logging.getLogger(__name__)

FOLDER = "for_mindformers"
"""Below `output_dir`: converted weights."""


def weights_for_mindformers(run: RunConfig, *, ranks: int | None) -> str:
    """The path to give MindFormers as `load_checkpoint`; empty starts from initial weights.

    MindFormers reads a `.ckpt` file, and a folder with `.ckpt` files in it or in `rank_N`. Hugging Face and Meta
    directories, safetensors and PyTorch files become `output_dir/for_mindformers/NAME.ckpt`, once.

    Args:
        run: the configuration.
        ranks: processes of this job; None is one.

    Raises:
        CheckpointError: weights that cannot be read, or are of another model.
        ConfigError: weights that have to be converted, in a job of several ranks.
    """
    if not run.start_weights:
        return ""
    source = Path(run.start_weights).expanduser()
    if source.suffix == ".ckpt" and source.is_file():
        return str(source)
    if source.is_dir() and (run.src_strategy_path_or_dir or any(source.glob("rank_*/*.ckpt"))):
        return str(source)
    for below in ("checkpoint", "checkpoint_network"):
        if source.is_dir() and any((source / below).glob("rank_*/*.ckpt")):
            return str(source / below)
    reader = open_checkpoint(source)
    if reader.metadata["format"] == "ms-ckpt":
        return str(source)
    target = Path(run.output_dir).expanduser() / FOLDER / f"{source.resolve().stem}.ckpt"
    if (ranks or 1) > 1:
        problem = (
            f"{source} is {reader.metadata['format']}, which MindFormers gets as a .ckpt, and {ranks} ranks shall not convert it at once."
        )
        raise ConfigError("load_checkpoint", problem, fix=f"codellama convert {source} {target}, then load_checkpoint: {target}.")
    if target.is_file() and target.stat().st_mtime >= newest_change(source):
        logger.info("load_checkpoint: %s was converted to %s before", source, target)
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    logger.info("load_checkpoint: converting %s (%s) to %s for MindFormers", source, reader.metadata["format"], target)
    convert(source, target, to="ms", force=True, config=run.model.config)
    return str(target)


def newest_change(source: Path) -> float:
    """When the newest file of a checkpoint was written, in seconds."""
    files = [file for file in source.iterdir() if file.is_file()] if source.is_dir() else [source]
    return max((file.stat().st_mtime for file in files), default=0.0)
