"""`codellama check CONFIG`: explain a configuration, and find everything wrong with it at once."""

from __future__ import annotations

import argparse
import json
from typing import Any

from mindformers_codellama.cli.explain import explain
from mindformers_codellama.config.check import notes, rank_count, run_findings
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import CodeLlamaError, ConfigError, Findings

EXAMPLES = """examples:
  codellama check configs/codellama/finetune_codellama_tiny.yaml
  codellama check configs/codellama/run_codellama_34b_910b.yaml --ranks 32
  codellama check my.yaml --set runner_config.epochs=3 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, overrides, and the form of the answer."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set one key; may be repeated")
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="judge the parallel degrees for N ranks (default: RANK_SIZE, else not judged)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what the file means and what is wrong; 0 when nothing is, 2 otherwise."""
    if arguments.ranks is not None and arguments.ranks < 1:
        raise ConfigError("--ranks", f"got {arguments.ranks}, must be at least 1.")
    found: dict[str, Any] = {"config": arguments.config}
    try:
        config = read_run(arguments.config, overrides=arguments.overrides)
    except Findings as error:
        found |= {"findings": [str(one) for one in error], "notes": []}
    except CodeLlamaError as error:
        found |= {"findings": [str(error)], "notes": []}
    else:
        ranks = rank_count() if arguments.ranks is None else arguments.ranks
        found |= explain(config)
        missing = [
            f"{item['key']}: {item['path']} does not exist." for item in found["files"] if item["use"] == "read" and not item["exists"]
        ]
        found["findings"] = [str(error) for error in run_findings(config, ranks=ranks)] + missing
        found["notes"] = notes(config)
    print(json.dumps(found, indent=2, ensure_ascii=False) if arguments.json else as_text(found))
    return 2 if found["findings"] else 0


def as_text(found: dict[str, Any]) -> str:
    """The answer for a person."""
    lines = [found["config"]]
    if "model" in found:
        lines += [*_model_lines(found), *_memory_lines(found), *_batch_lines(found), *_file_lines(found)]
    for title, items in (("notes", found["notes"]), ("findings", found["findings"])):
        lines += [f"{title}:", *(f"  {number}. {item}" for number, item in enumerate(items, 1))] if items else []
    return "\n".join(lines if found["findings"] else [*lines, "nothing is wrong."])


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _model_lines(found: dict[str, Any]) -> list[str]:
    model = found["model"]
    heads = f"{model['num_heads']} heads" + (f" in {model['num_kv_heads']} groups" if model["num_kv_heads"] != model["num_heads"] else "")
    lines = [
        f"  does      {found['run_mode']} on {found['device']}",
        f"  model     {model['name']}: {model['parameters']:,} parameters",
        f"            {model['num_layers']} layers, hidden {model['hidden_size']}, {heads}, feed-forward {model['intermediate_size']}, "
        f"vocabulary {model['vocab_size']}",
        f"            rows of {model['seq_length']} tokens, trained positions {model['max_position']}, theta {model['rope_theta']:g}",
        f"            computes in {model['compute_dtype']}, weights in {model['param_init_dtype']}",
    ]
    if model["registry"]:
        infill = "can infill" if model["registry"]["can_infill"] else "cannot infill"
        lines.append(f"            {infill}, prompts: {model['registry']['prompt_style']} ({model['registry']['source']})")
    return lines


def _memory_lines(found: dict[str, Any]) -> list[str]:
    parts = ", ".join(f"{name.replace('_', ' ')} {size(count)}" for name, count in found["memory"].items() if name != "total")
    return [f"  memory    {size(found['memory']['total'])} per rank ({parts}), activations not counted"]


def _batch_lines(found: dict[str, Any]) -> list[str]:
    batch = found["batch"]
    if "global_batch" not in batch:
        return [f"  batch     {batch['batch_size']} prompts at once"]
    lines = [f"  batch     {batch['global_batch']} rows, {batch['tokens_per_step']:,} tokens per step"]
    if "total_steps" in batch:
        return [*lines, f"  steps     {batch['total_steps']} ({batch['steps_per_epoch']} per epoch, {batch['rows']} rows)"]
    return [*lines, f"  steps     {batch['steps']}"]


def _file_lines(found: dict[str, Any]) -> list[str]:
    words = {("read", True): "reads", ("read", False): "reads (missing)", ("write", True): "writes (is there)", ("write", False): "writes"}
    return [f"  {words[item['use'], item['exists']]:<18}{item['path']}  [{item['key']}]" for item in found["files"]]
