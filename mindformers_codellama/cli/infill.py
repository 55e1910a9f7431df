"""`codellama infill`: fill in the middle of a file at a cursor, or of a text at its marks."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.generation_options import (
    MODEL_HELP,
    add_generation_arguments,
    add_opening_arguments,
    generation_options,
    open_from,
    unescape,
)
from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.demo import DEMO, shipped_model
from mindformers_codellama.errors import ConfigError, DataError
from mindformers_codellama.text.holes import FILL_MARK, Hole, Place, hole_at, parse_place, split_marks

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.infilling import Infilling, InfillOptions

MODEL_VARIABLE = "CODELLAMA_MODEL"
EXAMPLES = r"""examples:
  codellama infill CodeLlama-7b-hf src/app.py:41:9              what belongs at line 41, column 9 (both from 1)
  codellama infill CodeLlama-7b-hf src/app.py:41                at the end of line 41
  codellama infill CodeLlama-7b-hf src/app.py:41:9 --in-place   write it into the file; src/app.py.bak keeps the old one
  codellama infill CodeLlama-7b-hf src/app.py:41:9 --diff --context src/models.py
  codellama infill CodeLlama-7b-hf --fill '<FILL>' 'def add(a, b):\n    <FILL>\n\nprint(add(1, 2))'
  codellama infill CodeLlama-7b-hf --fill '<FILL>' draft.py --json
  cat draft.py | codellama infill CodeLlama-7b-hf --fill '<FILL>' -
with CODELLAMA_MODEL in the environment the model need not be named: codellama infill src/app.py:41:9
models that can: Code Llama 7B and 13B (base and Instruct) and 70B base; not 34B, not the Python models
"""
BACKUP = ".bak"
ORDERS = {"auto": None, "psm": False, "spm": True}


@dataclass(frozen=True)
class Target:
    """What is to be filled in."""

    text: str
    """As it is, marks and line ends included."""
    parts: list[str]
    """Text between the cursors, at least two."""
    path: Path | None = None
    """File it is from."""
    place: Place | None = None
    """The cursor, when there is one; else the text has marks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, place, how to ask, generation, output."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[CONFIG|DIR] FILE:LINE[:COL]",
        help=f"the model ({MODEL_HELP}), and the cursor (without COL the end of the line); "
        "with --fill a file or text with marks, or - for standard input",
    )
    add_opening_arguments(parser)
    group = parser.add_argument_group("infilling")
    group.add_argument("--fill", metavar="MARK", help=f"fill in every MARK of a text or file, such as '{FILL_MARK}', first to last")
    group.add_argument(
        "--order", choices=tuple(ORDERS), default="auto", help="prefix or suffix first; auto: the model's own order, or by the cursor"
    )
    group.add_argument(
        "--until",
        choices=("block", "line", "eot"),
        default="block",
        help="where a middle ends: with the cursor's block or brackets, with its line, or where the model says (default: block)",
    )
    group.add_argument("--no-heal", dest="heal", action="store_false", help="keep a prefix that ends inside a token as it is")
    group.add_argument(
        "--context", action="append", default=[], metavar="FILE", help="another file to show the model; the most helpful first"
    )
    group.add_argument("--keep-backslashes", action="store_true", help=r"leave \n and \t in a text of the command line as they are")
    add_generation_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--in-place", action="store_true", help=f"write the file; the old one is kept as FILE{BACKUP}")
    shown = group.add_mutually_exclusive_group()
    shown.add_argument("--diff", action="store_true", help="print the change as a unified diff")
    shown.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object with the middles and the whole text")
    group.add_argument("--force", action="store_true", help=f"replace an existing FILE{BACKUP}")
    parser.set_defaults(others=[])  # words behind an option, collected by main


def run(arguments: argparse.Namespace) -> int:
    """Read, open the model, fill in, show or write."""
    arguments.model, words = model_and_target([*arguments.words, *arguments.others])
    target = read_target(words, arguments.fill, keep_backslashes=arguments.keep_backslashes)
    check_output(target, arguments)
    options = infill_options(arguments, target)
    found = fill(arguments, target, options)
    text = found[-1].text
    if arguments.in_place:
        assert target.path is not None
        replace_file(target.path, target.text, text, force=arguments.force)
    if arguments.as_json:
        print(json.dumps(record(target, found), ensure_ascii=False))
    elif arguments.diff:
        sys.stdout.write(diff(target.text, text, str(target.path or "text").lstrip("/")))
    elif streams(arguments, target):
        sys.stdout.write("\n" if sys.stdout.isatty() else "")
    elif not arguments.in_place:
        sys.stdout.write(text)
    return 0


def model_and_target(words: Sequence[str]) -> tuple[str, str]:
    """The model and what to fill in, from the words of the command line.

    Raises:
        ConfigError: too few or too many words, or no model at all.
    """
    if len(words) == 1:
        model = os.environ.get(MODEL_VARIABLE, "")
        if not model and not shipped_model(DEMO):
            raise ConfigError("model", "no model is named.", fix=f"codellama infill MODEL {words[0]}, or set {MODEL_VARIABLE}.")
        if not model:
            print(f"no model is named: {DEMO} answers.", file=sys.stderr)
        return model or DEMO, words[0]
    if len(words) != 2:
        problem = "there is nothing to fill in." if not words else f"got {len(words)} words: one model and one place can be given."
        raise ConfigError("infill", problem, fix=f"codellama infill MODEL src/app.py:41:9, or --fill '{FILL_MARK}' TEXT.")
    return words[0], words[1]


def read_target(words: str, mark: str | None, *, keep_backslashes: bool = False) -> Target:
    """What the words of the command line mean.

    Raises:
        ConfigError: no place without `--fill`, a place that is not in the file, a text without the mark.
        DataError: a file that is missing or no text.
    """
    from mindformers_codellama.pipelines.prompt_files import names_something

    if mark is None:
        place = parse_place(words)
        if place is None:
            fix = f"write src/app.py:41:9, src/app.py:41 for the end of a line, or --fill '{FILL_MARK}' for a text with marks."
            raise ConfigError(words, "is not FILE:LINE:COL.", fix=fix)
        text = read_text(place.path)
        return Target(text, list(hole_at(text, place)), Path(place.path), place)
    path = Path(words) if words not in ("", "-") and names_something(words) else None
    if path is not None or words == "-":
        text = read_text(words)
    else:
        text = words if keep_backslashes else unescape(words)
        if mark and mark not in text:
            raise ConfigError(
                words or "text", f"is no file, and as a text it has no mark {mark}.", fix="put the mark where something is missing."
            )
    return Target(text, split_marks(text, mark), path)


def read_text(name: str) -> str:
    """A file, or standard input for `-`, as it is, line ends included.

    Raises:
        DataError: it is missing, unreadable or not UTF-8.
    """
    where = "standard input" if name == "-" else name
    try:
        return (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode()
    except OSError as error:
        raise DataError(where, f"cannot be read: {error.strerror}.", fix="give a file of text.") from error
    except UnicodeDecodeError as error:
        raise DataError(where, f"is not UTF-8 text (byte {error.start}).") from error


def check_output(target: Target, arguments: argparse.Namespace) -> None:
    """Refuse what cannot be written, before anything is computed.

    Raises:
        ConfigError: `--in-place` without a file.
        CheckpointError: the backup exists and not `--force`.
    """
    if arguments.in_place:
        from mindformers_codellama.checkpoint.files import refuse_existing

        if target.path is None:
            raise ConfigError("--in-place", "there is no file to write.", fix="give a file, or leave --in-place out.")
        refuse_existing(backup_of(target.path), force=arguments.force)


def infill_options(arguments: argparse.Namespace, target: Target) -> InfillOptions:
    """How the model is asked.

    Raises:
        DataError: a `--context` file that is missing or no text.
    """
    from mindformers_codellama.pipelines.infilling import InfillOptions

    return InfillOptions(
        suffix_first=ORDERS[arguments.order],
        until=arguments.until,
        heal=arguments.heal,
        context=[(name, read_text(name)) for name in arguments.context],
        path=str(target.path or ""),
    )


def fill(arguments: argparse.Namespace, target: Target, options: InfillOptions) -> list[Infilling]:
    """Open the model and fill in; Ctrl-C ends the program after the token that is being made, and nothing is written."""
    from mindformers_codellama.generation.loop import Listeners
    from mindformers_codellama.pipelines.infilling import InfillingPipeline

    opened = open_from(arguments, alone="infill", infills=True)
    given = generation_options(arguments, sampling=opened.generation.do_sample)
    pipe = InfillingPipeline(opened.model, opened.tokenizer, name=opened.name, **given)
    on_text = partial(show, line_end=Hole(*target.parts).line_end) if streams(arguments, target) else None
    with stopping_on_interrupt() as should_stop:
        listeners = Listeners(on_text=on_text, should_stop=should_stop)
        [found] = pipe.fill([target.parts], options, pipe.generation, listeners=listeners)
    if found[-1].finish_reason == "cancelled":
        raise KeyboardInterrupt
    print(f"{pipe.stats}", file=sys.stderr)
    return found


def streams(arguments: argparse.Namespace, target: Target) -> bool:
    """Whether the middle is printed alone and as it comes: at a cursor, when no other output is asked for."""
    return target.place is not None and not (arguments.as_json or arguments.diff or arguments.in_place)


def show(row: int, piece: str, *, line_end: str) -> None:
    """Write a part of the middle at once, with the line ends of the file."""
    sys.stdout.write(piece.replace("\n", line_end))
    sys.stdout.flush()


def record(target: Target, found: Sequence[Infilling]) -> dict[str, Any]:
    """What `--json` prints."""
    middles = [
        {
            "middle": one.middle,
            "finish_reason": one.finish_reason,
            "order": "spm" if one.prompt.suffix_first else "psm",
            "healed": one.prompt.healed,
            "trimmed": one.prompt.trimmed,
            "prompt_tokens": len(one.prompt.ids),
            "new_tokens": len(one.new_ids),
        }
        for one in found
    ]
    place = {} if target.place is None else {"line": target.place.line, "column": len(target.parts[0].rpartition("\n")[2]) + 1}
    return {"path": str(target.path) if target.path else None, **place, "middles": middles, "text": found[-1].text}


def diff(old: str, new: str, name: str) -> str:
    """The change as `patch` reads it."""
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def backup_of(path: Path) -> Path:
    """Where the file as it was is kept."""
    return path.with_name(path.name + BACKUP)


def replace_file(path: Path, old: str, new: str, *, force: bool) -> None:
    """Keep the old file beside it, then put the new one in its place with the same rights.

    Raises:
        DataError: the file was changed while the model wrote.
        CheckpointError: the disk or the rights refuse, or the backup exists and not `force`.
    """
    from mindformers_codellama.checkpoint.files import atomic_file

    if read_text(str(path)) != old:
        raise DataError(path, "was changed while the model wrote; it is left as it is.", fix="run the command again.")
    real = path.resolve()  # a link stays a link
    with atomic_file(backup_of(path), force=force) as file:
        file.write(old.encode())
    mode = real.stat().st_mode
    with atomic_file(real, force=True) as file:
        file.write(new.encode())
    real.chmod(mode)
    shutil.copymode(real, backup_of(path))
