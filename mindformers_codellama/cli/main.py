"""`codellama`: one table of subcommands, each in a module that is imported only when it is used.

A subcommand's module has `add_arguments(parser) -> None` and `run(arguments) -> int`, and may have
`EXAMPLES`, a text shown below its help. To add one, add a line to `COMMANDS`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec

from mindformers_codellama import __version__
from mindformers_codellama.cli.flags import CommandParser, refuse_unknown, refuse_unknown_command
from mindformers_codellama.cli.interrupts import EXIT_CODE, STOPPED, interruptible
from mindformers_codellama.errors import CodeLlamaError, ConfigError, EnvironmentFault, ToldElsewhere

COMMANDS: Mapping[str, tuple[str, str]] = {
    "check": ("mindformers_codellama.cli.check", "explain a configuration and find what is wrong with it"),
    "plan": ("mindformers_codellama.cli.plan", "memory, communication and layouts of a run before it is started"),
    "convert": ("mindformers_codellama.cli.convert", "weights: Hugging Face, Meta, MindSpore and safetensors, either way"),
    "quantize": ("mindformers_codellama.cli.quantize", "weights packed as bfloat16, int8 or int4, for prediction and evaluation"),
    "shard": ("mindformers_codellama.cli.shard", "a whole checkpoint into the parts of every rank"),
    "merge": ("mindformers_codellama.cli.merge", "the parts of all ranks into one whole checkpoint"),
    "merge-lora": ("mindformers_codellama.cli.merge_lora", "a model and its low-rank adapter into one model"),
    "reshard": ("mindformers_codellama.cli.reshard", "the parts of one layout into those of another"),
    "data": ("mindformers_codellama.cli.data", "text or conversations to mindrecord"),
    "train-tokenizer": ("mindformers_codellama.cli.train_tokenizer", "a SentencePiece tokenizer with Llama's settings from your own text"),
    "train": ("mindformers_codellama.cli.train", "pretrain a model"),
    "finetune": ("mindformers_codellama.cli.finetune", "go on training from a checkpoint"),
    "evaluate": ("mindformers_codellama.cli.evaluate", "loss and perplexity on a dataset"),
    "eval": ("mindformers_codellama.cli.eval", "how well a model does on a suite of tasks: HumanEval, infilling and others"),
    "predict": ("mindformers_codellama.cli.predict", "generate from prompts"),
    "export": ("mindformers_codellama.cli.export", "MindIR graphs of a model, for MindSpore and MindSpore Lite"),
    "infer": ("mindformers_codellama.cli.infer", "generate from exported graphs, with MindFormers' run_infer_main.py flags"),
    "performance": ("mindformers_codellama.cli.performance", "tokens per second over batch sizes and lengths, as CSV"),
    "chat": ("mindformers_codellama.cli.chat", "talk to a model in the terminal"),
    "infill": ("mindformers_codellama.cli.infill", "fill in the middle of a file at a cursor, or of a text at its marks"),
    "run": ("mindformers_codellama.cli.run", "any run_mode of a configuration, with MindFormers' run_mindformer.py flags"),
    "launch": ("mindformers_codellama.cli.launch", "one command as several ranks, on this machine and on others"),
    "rank-table": ("mindformers_codellama.cli.rank_table", "which device of which server is which rank: make, merge, check"),
    "doctor": ("mindformers_codellama.cli.doctor", "what on this machine would stop a job, and what to do about it"),
    "completion": ("mindformers_codellama.cli.completion", "print the completion script of a shell"),
}
"""Subcommand to its module and the one line `codellama --help` shows."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def command_names() -> list[str]:
    """Subcommands whose module is installed, in the order of the table."""
    return [name for name, (module, _) in COMMANDS.items() if find_spec(module)]


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with the arguments of the named subcommands; the others are known by name only."""
    parser = CommandParser(
        prog="codellama",
        description="Code Llama on MindSpore: weights in, data in, train, generate.",
        epilog="`codellama COMMAND --help` shows a command's arguments and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"codellama {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in command_names():
        module_name, line = COMMANDS[name]
        module = import_module(module_name) if name in names else None
        command = commands.add_parser(
            name,
            help=line,
            description=f"{line[0].upper()}{line[1:]}.",
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if module is not None:
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code.

    0 done, 1 to 9 a `CodeLlamaError` (its kind), 2 also wrong arguments, 8 also what the system refuses, 130 stopped
    by the user, 141 the reader of a pipe has gone. A traceback is shown only for faults of this program, or when
    CODELLAMA_TRACEBACK is set.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return reported(lambda: _run(words))


def reported(action: Callable[[], int]) -> int:
    """The exit code of an action, or of the error it ends with, which is told in one line; as `main`."""
    try:
        with interruptible():
            code = action()
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
        return code
    except CodeLlamaError as error:
        if os.environ.get("CODELLAMA_TRACEBACK"):
            raise
        if not isinstance(error, ToldElsewhere):
            print(f"codellama: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:
        _drop_output()
        return 141  # 128 + SIGPIPE, as shells report any program that a closed pipe ends
    except OSError as error:
        if os.environ.get("CODELLAMA_TRACEBACK"):
            raise
        if error.filename is None:
            _drop_output()
        print(f"codellama: error: {error.filename or 'output'}: {error.strerror or error}.", file=sys.stderr)
        return EnvironmentFault.exit_code


def _run(words: Sequence[str]) -> int:
    name = next((word for word in words if not word.startswith("-")), "")
    refuse_unknown_command(name, command_names())
    parser = build_parser([name])
    if not words:
        parser.print_help()
        return 2
    arguments = parse(parser, words)
    start_logging()
    return int(arguments.run(arguments) or 0) if hasattr(arguments, "run") else 2


def _drop_output() -> None:
    """Keep Python from complaining again when it flushes at exit what stdout could not take."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parsed arguments.

    Words that no argument took are an error, except where a command declares `others`; and flags among those, except where it
    declares `other_flags` too (`run --a.b.c value`).

    Raises:
        ConfigError: an unknown flag, with the nearest one, or a word too many.
    """
    arguments, others = parser.parse_known_args(words)
    if not getattr(arguments, "other_flags", False):
        refuse_unknown(parser, others)
    if others and not hasattr(arguments, "others"):
        raise ConfigError(others[0], "is one word too many.", fix=f"see codellama {arguments.command} --help.")
    arguments.others = others
    return arguments


def start_logging() -> None:
    """Log lines of the package to stderr; CODELLAMA_LOG_LEVEL chooses the level (INFO)."""
    level = os.environ.get("CODELLAMA_LOG_LEVEL", "INFO").upper()
    logger = logging.getLogger("mindformers_codellama")
    logger.setLevel(level if isinstance(getattr(logging, level, None), int) else logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger.addHandler(handler)
        logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
