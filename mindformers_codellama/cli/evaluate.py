"""`codellama evaluate CONFIG`: loss and perplexity of a checkpoint on `eval_dataset`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from mindformers_codellama.cli.engine import is_elsewhere, run_elsewhere
from mindformers_codellama.cli.generation_options import WEIGHTS_HELP
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.weight_forms import WEIGHT_FORMS

if TYPE_CHECKING:
    from mindformers_codellama.config.sections import RunConfig

EXAMPLES = """examples:
  codellama evaluate configs/codellama/pretrain_codellama_tiny.yaml --set load_checkpoint=output/tiny/pretrain/checkpoint \\
    --set eval_dataset.data_loader.dataset_dir=output/tiny/stdlib.mindrecord
  codellama evaluate CONFIG --set load_checkpoint=CKPT --weights int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, overrides, and the form of the answer."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set one key; may be repeated")
    parser.add_argument("--weights", choices=WEIGHT_FORMS, help=WEIGHTS_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    config = read_run(arguments.config, overrides=arguments.overrides)
    if arguments.weights is not None:
        config = replace(config, weights=arguments.weights)
    return run_config(config, as_json=arguments.json)


def run_config(config: RunConfig, *, as_json: bool = False) -> int:
    """Evaluate one configuration and print loss and perplexity, on the first rank."""
    if is_elsewhere(config):
        return run_elsewhere(replace(config, run_mode="eval"), as_json=as_json)
    from mindformers_codellama.pipelines.evaluate_packed import evaluate_weights

    with tqdm(unit="batch", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result, form = evaluate_weights(replace(config, run_mode="eval"), progress=progress)
    if result.rank:
        return 0
    if as_json:
        print(json.dumps({key: value for key, value in asdict(result).items() if key != "rank"} | {"weights": form}))
    else:
        told = f"loss {result.loss:.4f}, PPL {result.perplexity:.3f} over {result.tokens} tokens in {result.batches} batches"
        print(told if form == "float32" else f"{told}, weights {form}")
    return 0
