"""The ATB SDK's `sdk_test.py`: what its `sdk_config.ini` says, as a `codellama` command.

Source of the keys and their defaults: the README of `atb_speed_sdk`; there `mode` is ceval when nothing is said, here mmlu.
"""

from __future__ import annotations

import argparse
import configparser
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from mindformers_codellama.cli.main import main, start_logging
from mindformers_codellama.cli.performance_words import case_pairs, number, switch
from mindformers_codellama.errors import ConfigError

logger = logging.getLogger(__name__)

CONFIG = "sdk_config.ini"
TASKS = ("run", "inference", "precision", "performance")
KEYS: Mapping[str, Mapping[str, str]] = {
    "model": {"model_path": "", "device_ids": "0", "device": "", "parallel_backend": "hccl", "log_dir": "./", "bind_cpu": "1"},
    "precision": {"mode": "", "work_dir": "", "batch": "1", "shot": "5", "seq_len_out": "32"},
    "performance": {
        "model_name": "",
        "batch_size": "1",
        "max_len_exp": "10",
        "min_len_exp": "5",
        "case_pair": "",
        "save_file_name": "",
        "perf_mode": "normal",
        "skip_decode": "0",
    },
}
"""Section to key to default; empty is nothing said."""
MODES = ("mmlu", "ceval")
PROMPTS = ("How to learn a new language", "Why do we need to learn a new language", "What is the best way to study")
RESULTS = "test_result"
EPILOG = """sdk_config.ini, paths from the current folder:
  [model]
  model_path=./llama2-7b
  device_ids=0
  [precision]
  mode=mmlu                 ; or ceval
  work_dir=./mmlu_test      ; holds data with dev, val and test; test_result is written beside it
  batch=1
  shot=5
  seq_len_out=32
  [performance]
  model_name=llama2_7b
  batch_size=1
  min_len_exp=5
  max_len_exp=10
Other flags go to the command that is run, which is told: --answer-by logit, --limit 20, --weights bfloat16. See docs/multiple_choice.md
"""


def sdk_main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and the file, run the command."""
    parser = argparse.ArgumentParser(
        description="ATB SDK's sdk_test.py on codellama.", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="run", choices=TASKS, help="run (or inference) answers three questions (default)")
    parser.add_argument("--config", default=CONFIG, type=Path, metavar="FILE", help="default: %(default)s in the current folder")
    arguments, more = parser.parse_known_args(argv)
    start_logging()
    if os.environ.get("RANK", "0") not in ("", "0"):
        print(f"rank {os.environ['RANK']}: nothing to do, rank 0 evaluates alone.", file=sys.stderr)
        return 0
    words = [*command_of(arguments.task, read_config(arguments.config), arguments.config), *more]
    print(f"codellama {shlex.join(words)}", file=sys.stderr, flush=True)
    return main(words)


def read_config(path: Path) -> dict[str, dict[str, str]]:
    """Every known key of every section, with its default where the file says nothing.

    Raises:
        ConfigError: a file that cannot be read, or sections and keys that are not known.
    """
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        reason = str(error).splitlines()[0] if not isinstance(error, OSError) else error.strerror
        raise ConfigError(path, f"cannot be read: {reason}.", fix="see python tools/sdk_test.py --help for its form.") from error
    found = {section: dict(keys) for section, keys in KEYS.items()}
    for section in parser.sections():
        if section not in KEYS:
            raise ConfigError(f"{path} [{section}]", f"is no section; they are {', '.join(KEYS)}.")
        for key, value in parser[section].items():
            if key not in KEYS[section]:
                near = get_close_matches(key, KEYS[section], n=1)
                raise ConfigError(
                    f"{path} [{section}] {key}", "is no key.", fix=f"write {near[0]}." if near else f"one of {', '.join(KEYS[section])}."
                )
            found[section][key] = value.strip()
    return found


def command_of(task: str, found: Mapping[str, Mapping[str, str]], path: Path) -> list[str]:
    """The words of the `codellama` command for a task.

    Raises:
        ConfigError: a key that is missing or has another value than allowed.
    """
    model = found["model"]
    if not model["model_path"]:
        raise ConfigError(f"{path} [model] model_path", "is missing.", fix="model_path=DIR, a folder of weights or a YAML file.")
    devices = [one for one in (model["device"] or model["device_ids"]).split(",") if one.strip()]
    if len(devices) > 1:
        logger.warning("%d devices are named; one process holds the whole model here.", len(devices))
    if task == "precision":
        return _precision(model["model_path"], found["precision"], f"{path} [precision]")
    if task == "performance":
        return _performance(model["model_path"], found["performance"], f"{path} [performance]")
    questions = [f"Common sense questions and answers\n\nQuestion: {text}\nFactual answer:" for text in PROMPTS]
    return ["predict", model["model_path"], *questions, "--max-new-tokens", "128"]


def _precision(model: str, keys: Mapping[str, str], where: str) -> list[str]:
    if keys["mode"] not in ("", *MODES):
        raise ConfigError(f"{where} mode", f"got {keys['mode']!r}, must be one of {', '.join(MODES)}.")
    if not keys["work_dir"]:
        raise ConfigError(f"{where} work_dir", "is missing.", fix="work_dir=DIR, which holds data with dev, val and test.")
    work = Path(keys["work_dir"])
    words = ["eval", keys["mode"] or "mmlu", model, "--data", str(work), "--output", str(work / RESULTS)]
    words += ["--answer-by", "generation"]
    for key, flag in (("batch", "--batch-size"), ("shot", "--shots"), ("seq_len_out", "--max-new-tokens")):
        value = keys[key]
        if key == "shot" and not value.isdecimal():
            raise ConfigError(f"{where} shot", f"got {value!r}, must be a whole number of at least 0.")
        words += [flag, str(int(value) if key == "shot" else number(f"{where} {key}", value))]
    return words


def _performance(model: str, keys: Mapping[str, str], where: str) -> list[str]:
    if keys["perf_mode"] not in ("", "normal"):
        raise ConfigError(f"{where} perf_mode", f"got {keys['perf_mode']!r}; times are taken as normal does.", fix="perf_mode=normal.")
    if keys["save_file_name"]:
        raise ConfigError(f"{where} save_file_name", "the file is named after model_name.", fix="leave it out, and set model_name.")
    switch(f"{where} skip_decode", keys["skip_decode"] or "0")  # turning ids into text is in no measurement here
    words = ["performance", model, "--batch", str(number(f"{where} batch_size", keys["batch_size"]))]
    words += ["--model-name", keys["model_name"]] if keys["model_name"] else []
    if keys["case_pair"]:
        pairs = case_pairs(f"{where} case_pair", keys["case_pair"])
        inputs, outputs = (",".join(str(pair[side]) for pair in pairs) for side in (0, 1))
        return [*words, "--set-case-pair", "1", "--seqlen-in-pair", inputs, "--seqlen-out-pair", outputs]
    low, high = (number(f"{where} {key}", keys[key]) for key in ("min_len_exp", "max_len_exp"))
    if low > high:
        raise ConfigError(f"{where} min_len_exp", f"is {low}, above max_len_exp {high}.")
    span = f"[{low},{high + 1}]"
    return [*words, "--seqlen-in-range", span, "--seqlen-out-range", span]
