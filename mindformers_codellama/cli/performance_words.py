"""The case arguments of `codellama performance`: lists as other suites write them, checked."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.pipelines.performance_cases import Case, cases_of, combined, range_lengths, side_by_side

LIMIT_VARIABLE = "MAX_SEQ_LENGTH"
DEFAULT_LIMIT = 2048
"""Positions of a row when nothing is said, as in the ATB speed scripts."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to measure."""

    cases: list[Case]
    is_model_test: bool
    """Timed and filed as the ATB model tests do, else as the ATB speed scripts do."""


def add_case_arguments(parser: argparse.ArgumentParser) -> None:
    """Batches and lengths; lists are [1,2] or 1,2."""
    group = parser.add_argument_group("cases; lists are written [1,2] or 1,2, names with - or _")

    def add(name: str, **options: object) -> None:
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        group.add_argument(*spellings, **options)  # type: ignore[arg-type]

    group.add_argument("--batch", "--multi-batch-size", "--multi_batch_size", default="[1,4,8,16,32]", metavar="LIST", help="%(default)s")
    group.add_argument("--multicase", "--multi-case", "--multi_case", default="1", metavar="0|1", help="0: one case; 1: many (default)")
    add("seqlen-in", default="128", metavar="N", help="prompt of the one case (%(default)s tokens)")
    add("seqlen-out", default="128", metavar="N", help="new tokens of the one case (%(default)s)")
    add("set-case-pair", default="0", metavar="0|1", help="0: all combinations of two ranges (default); 1: given pairs")
    add("seqlen-in-range", default="[5,11]", metavar="[A,B]", help="prompts of 2^A, ..., 2^(B-1) tokens (%(default)s)")
    add("seqlen-out-range", default="[5,11]", metavar="[A,B]", help="the same for new tokens (%(default)s)")
    add("seqlen-in-pair", default="[256,256,512,1024]", metavar="LIST", help="%(default)s; read side by side with the next")
    add("seqlen-out-pair", default="[64,256,512,1024]", metavar="LIST", help="%(default)s")
    group.add_argument("--case-pairs", default="", metavar="[[IN,OUT],...]", help="these pairs, timed and filed as the ATB model tests do")
    help_text = f"positions of a row; default ${LIMIT_VARIABLE}, else {DEFAULT_LIMIT}, or the longest of --case-pairs"
    add("max-seq-length", default="", metavar="N", help=help_text)


def sweep_from(arguments: argparse.Namespace) -> Sweep:
    """The cases the arguments name.

    Raises:
        ConfigError: lists that cannot be read, do not match, or are longer than the limit.
    """
    batches = numbers("--batch", arguments.batch)
    pairs = case_pairs("--case-pairs", arguments.case_pairs) if arguments.case_pairs else sweep_pairs(arguments)
    where, limit = limit_of(arguments)
    if arguments.case_pairs and limit is None:
        limit = max(map(sum, pairs))  # the model tests make room for their longest pair
    limit = DEFAULT_LIMIT if limit is None else limit
    return Sweep(cases=cases_of(batches, pairs, limit=limit, where=where), is_model_test=bool(arguments.case_pairs))


def sweep_pairs(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """(input, output) lengths by the switches of the ATB speed scripts."""
    if not switch("--multicase", arguments.multicase):
        return [(number("--seqlen-in", arguments.seqlen_in), number("--seqlen-out", arguments.seqlen_out))]
    if switch("--set-case-pair", arguments.set_case_pair):
        names = ("--seqlen-in-pair", "--seqlen-out-pair")
        return side_by_side(numbers(names[0], arguments.seqlen_in_pair), numbers(names[1], arguments.seqlen_out_pair), names)
    names = ("--seqlen-in-range", "--seqlen-out-range")
    inputs = range_lengths(names[0], numbers(names[0], arguments.seqlen_in_range))
    return combined(inputs, range_lengths(names[1], numbers(names[1], arguments.seqlen_out_range)))


def limit_of(arguments: argparse.Namespace) -> tuple[str, int | None]:
    """What sets the positions of a row, and how many; None when nothing is said."""
    if arguments.max_seq_length:
        return "--max-seq-length", number("--max-seq-length", arguments.max_seq_length)
    if os.environ.get(LIMIT_VARIABLE):
        return LIMIT_VARIABLE, number(LIMIT_VARIABLE, os.environ[LIMIT_VARIABLE])
    return "--max-seq-length", None


def number(where: str, text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ConfigError: anything else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(where, f"got {text!r}, must be a whole number of at least 1.")
    return int(text)


def switch(where: str, text: str) -> bool:
    """0 or 1.

    Raises:
        ConfigError: anything else.
    """
    if text not in ("0", "1"):
        raise ConfigError(where, f"got {text!r}, must be 0 or 1.")
    return text == "1"


def numbers(where: str, text: str) -> list[int]:
    """Whole numbers from `[1,2]` or `1,2`.

    Raises:
        ConfigError: anything else.
    """
    words = [word.strip() for word in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(where, f"got {text!r}, must be whole numbers like [1,4,8].")
    return [int(word) for word in words]


def case_pairs(where: str, text: str) -> list[tuple[int, int]]:
    """Pairs from `[[2048,2048],[256,256]]`, or one from `[256,256]`.

    Raises:
        ConfigError: anything else.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value):
        value = [value]
    is_pairs = isinstance(value, list) and value and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    if not is_pairs or not all(type(item) is int and item > 0 for pair in value for item in pair):
        raise ConfigError(
            where, f"got {text!r}, must be pairs of lengths.", fix='write "[[2048,2048],[256,256]]" (in quotes, for the shell).'
        )
    return [(first, second) for first, second in value]
