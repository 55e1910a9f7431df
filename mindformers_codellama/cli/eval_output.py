"""What every suite of `codellama eval` writes and shows beside its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.pipelines.open_model import OpenedModel

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pth")
SAMPLES, SETTINGS, REPORT = "samples.jsonl", "settings.json", "report.json"


def model_settings(arguments: argparse.Namespace, opened: OpenedModel, config: GenerationConfig | None = None) -> dict[str, Any]:
    """Which model is evaluated, how it was opened and how it generates: what `keep_settings` compares, in part.

    Args:
        arguments: with those of `add_opening_arguments`.
        opened: the model.
        config: every option of generation; None when nothing is generated.
    """
    names = ("load_checkpoint", "tokenizer", "dtype", "weights", "device", "overrides", "seq_length", "adapter")
    made: dict[str, Any] = {
        "model": arguments.model,
        "name": opened.name,
        "opened_with": {name: getattr(arguments, name) for name in names},
    }
    if places := [place for place in (opened.weights, *opened.adapters) if place]:
        made["weights_digest"] = weights_digest(places)
    if config is not None:
        made["decoding"] = {field.name: getattr(config, field.name) for field in fields(config)}
    return made


def weights_digest(places: Sequence[str]) -> str:
    """A text that is another one when other weights stand in the same place, as after further training.

    Args:
        places: files, or directories of them, in order.
    """
    from mindformers_codellama.train.plan import fingerprint

    files: list[Path] = []
    for place in (Path(place).expanduser() for place in places):
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        files += [file for file in found if file.suffix in WEIGHT_SUFFIXES and file.is_file()]
    return fingerprint(tuple(files))


def keep_settings(path: Path, made: dict[str, Any], *, begun: bool) -> None:
    """Write how samples are made, or see that it is still the same.

    Raises:
        ConfigError: samples are there that were made otherwise.
    """
    if begun:
        try:
            old = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            problem = "is missing or damaged: nobody knows how the samples beside it were made."
            raise ConfigError(path, problem, fix="give another --output.") from error
        changed = [name for name in made if old.get(name) != made[name]]
        if changed:
            problem = f"holds samples that were made with another {' and '.join(changed)}."
            others = " The files of weights at this path are others now." if "weights_digest" in changed else ""
            raise ConfigError(path.parent, problem + others, fix="give another --output, or the same options.")
    write_json(path, made)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a small file at once."""
    from mindformers_codellama.checkpoint.files import atomic_file

    with atomic_file(path, force=True) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


@contextmanager
def bar(unit: str, arguments: argparse.Namespace) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; told (done, all)."""
    with tqdm(unit=unit, disable=arguments.as_json or not sys.stderr.isatty()) as shown:

        def show(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield show
