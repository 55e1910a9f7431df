"""What `codellama launch` starts: words to a command, the configuration it will read, and how it is resumed."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindformers_codellama.cli import train
from mindformers_codellama.cli.run import config_path, overrides_from, require_mode
from mindformers_codellama.cluster.environment import Job
from mindformers_codellama.config.check import run_findings
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all

RANK_COMMANDS = ("run", "train", "finetune", "evaluate", "eval", "predict", "export", "infer", "performance")
"""Commands of this program that ranks can run."""
PROJECT = Path(__file__).resolve().parents[2]
ENTRY = "run_mindformer.py"
YAML_FLAGS = ("--config", "--yaml_file", "--yaml-file")
"""Flags by which MindFormers' scripts are given a configuration."""
SAVED = re.compile(r"(?P<prefix>[^.].*)_rank_(?P<rank>\d+)-(?P<place>\d+_\d+)\.(?:ckpt|safetensors)")
"""One rank's file of a save; unfinished ones have another name."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What each rank runs."""

    words: tuple[str, ...]
    """Program and arguments."""
    name: str = ""
    """Which command of this program; empty is another program."""
    config: RunConfig | None = None
    """What the command will read; None when it is another program's matter."""
    device_target: str = ""
    """What the configuration says; empty when none was found."""

    def resumed(self, since: float, job: Job) -> tuple[str, ...]:
        """The words of a restart: from the last checkpoint when training has written a complete one since then.

        Args:
            since: seconds since 1970; older checkpoints are another run's, or what this run itself started from.
            job: whose ranks must have written it.
        """
        config = self.config
        if config is None or config.run_mode not in train.TRAINING_MODES or not has_checkpoint(Path(train.written_to(config)), since, job):
            return self.words
        if self.name != "run":
            return self.words if "--resume" in self.words else (*self.words, "--resume")
        return (*self.words, "--resume_training", "True", "--load_checkpoint", train.written_to(config))


def understand(words: Sequence[str]) -> Command:
    """The command behind `--`.

    A command of this program is read as it will be read by every rank, so that what is wrong with it is told once.

    Raises:
        ConfigError: nothing, a command that ranks cannot run, or a program that does not exist.
        CodeLlamaError: what is wrong with the configuration.
        SystemExit: wrong flags, with usage, as of the command itself.
    """
    given = list(words[1:] if words[:1] == ["codellama"] else words)
    if not given:
        fix = "codellama launch --ranks 2 -- run --config FILE --run_mode train"
        raise ConfigError("COMMAND", "there is nothing to start.", fix=fix)
    script = given[1:] if _is_python(given[0]) else given
    if script and Path(script[0]).name == ENTRY and (not Path(script[0]).exists() or Path(script[0]).resolve() == PROJECT / ENTRY):
        given = ["run", *script[1:]]
    from mindformers_codellama.cli.main import COMMANDS

    if given[0] in RANK_COMMANDS:
        return _own(given)
    if given[0] in COMMANDS and shutil.which(given[0]) is None:
        raise ConfigError(given[0], "is not for several ranks.", fix=f"one of {', '.join(RANK_COMMANDS)}, or python SCRIPT.")
    return _foreign(given)


def require_ranks(config: RunConfig, ranks: int) -> None:
    """Raise what every rank would find wrong with the configuration.

    Raises:
        ConfigError: one finding; `Findings` when there are several.
    """
    found: list[CodeLlamaError] = []
    if ranks > 1 and not config.use_parallel:
        fix = "add --use_parallel True (run) or --set use_parallel=True (other commands)."
        found.append(ConfigError("use_parallel", f"is False, but {ranks} ranks are to be started.", fix=fix))
    raise_all([*found, *run_findings(config, ranks=ranks)])


def has_checkpoint(folder: Path, since: float, job: Job) -> bool:
    """Whether one save since then is there from every rank; where only this machine's ranks can be seen, from each of those.

    Whether its files are whole is for the ranks to find out, which read them.
    """
    saves: dict[tuple[str, ...], set[int]] = {}
    seen = set()
    for path in (folder / "checkpoint").glob("rank_*/*"):
        name = SAVED.fullmatch(path.name)
        if name and path.stat().st_mtime >= since:
            saves.setdefault((name["prefix"], name["place"]), set()).add(int(name["rank"]))
            seen.add(int(name["rank"]))
    own = {place.rank for place in job.local}
    needed = set(range(job.ranks)) if seen - own else own
    return any(needed <= ranks for ranks in saves.values())


def _own(given: Sequence[str]) -> Command:
    """A command of this program."""
    from mindformers_codellama.cli.main import build_parser, parse

    arguments = parse(build_parser([given[0]]), given)
    config = _configuration(given[0], arguments)
    if given[0] == "eval":
        _require_ranks_of_eval(arguments, config)
    words = (sys.executable, "-m", "mindformers_codellama.cli.main", *given)
    return Command(words=words, name=given[0], config=config, device_target=config.context.device_target if config else "")


def _configuration(name: str, arguments: argparse.Namespace) -> RunConfig | None:
    if name == "run":
        config = read_run(config_path(arguments.config), overrides=overrides_from(arguments))
        require_mode(config)
        return config
    if name in train.TRAINING_MODES:
        return train.configured(arguments, default_mode=name)
    if name in ("performance", "infer"):
        return None  # --world-size, or the exported graphs, say how the ranks share the model
    path = arguments.config if name == "evaluate" else arguments.model or ""  # export --verify-only names no model
    return read_run(path, overrides=arguments.overrides) if Path(path).suffix in (".yaml", ".yml") else None


def _require_ranks_of_eval(arguments: argparse.Namespace, config: RunConfig | None) -> None:
    """Refuse suites and models that every rank would evaluate for itself, into the same files."""
    if not hasattr(arguments, "world_size"):
        raise ConfigError(f"eval {arguments.suite}", "is not for several ranks.", fix="start it without codellama launch.")
    if arguments.world_size is None and (config is None or not config.use_parallel):
        raise ConfigError("--world-size", "is missing: it says how the ranks share the model.", fix="--world-size N, as many as ranks.")


def _foreign(given: Sequence[str]) -> Command:
    """Another program; a Python one runs in this program's environment."""
    program, *rest = given
    script = rest[0] if _is_python(program) and rest else program
    if script.endswith(".py") and not Path(script).is_file():
        raise ConfigError(script, "does not exist.", fix="give the program's path, from the current folder.")
    if _is_python(program):
        words = [sys.executable, *rest]
    elif program.endswith(".py"):
        words = [sys.executable, program, *rest]
    else:
        found = shutil.which(program)
        if found is None:
            fix = f"one of {', '.join(RANK_COMMANDS)}, or python SCRIPT."
            raise ConfigError(program, "is neither a codellama command nor a program.", fix=fix)
        words = [found, *rest]
    return Command(words=tuple(words), device_target=_device_said(rest))


def _device_said(words: Sequence[str]) -> str:
    """`context.device_target` of the file that --config or --yaml_file names; empty when there is none."""
    for word, value in zip(words, [*words[1:], ""], strict=False):
        name, equals, behind = word.partition("=")
        if name in YAML_FLAGS and Path(behind if equals else value).is_file():
            return read_run(behind if equals else value).context.device_target
    return ""


def _is_python(word: str) -> bool:
    return word in ("python", "python3")
