"""Flags and commands that nobody knows, answered with the nearest name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from mindformers_codellama.errors import ConfigError

CLOSE = 0.62
"""Least share of characters in common with a flag that is offered; a little above the usual 0.6, for both begin with dashes."""


class CommandParser(argparse.ArgumentParser):
    """A parser that remembers whether it was asked, so that unknown flags are compared with those of the command in use."""

    words: Sequence[str] | None = None
    """What it was given to read; None when the command line does not reach it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; remembers the words."""
        self.words = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """As argparse does; where something is missing, a flag that may have been meant for it comes first.

        Raises:
            ConfigError: exit code 2, as argparse's own.
        """
        unknown = (word for word in self.words or () if is_flag(word) and name_of(word) not in self._option_string_actions)
        for word in unknown if "required: " in message else ():
            if nearest(word, own_flags(self)):
                raise not_an_option(word, [self])
        super().error(message)


def parsers_in_use(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser, and those of its subcommands that the words chose."""
    yield parser
    for action in parser._actions:  # argparse has no public way to its subcommands
        for command in dict.fromkeys(action.choices.values()) if isinstance(action, argparse._SubParsersAction) else ():
            if command.words is not None:
                yield from parsers_in_use(command)


def refuse_unknown(parser: argparse.ArgumentParser, words: Iterable[str]) -> None:
    """Refuse the first flag among words that no argument took.

    Args:
        parser: that was asked, with all its subcommands.
        words: what it left over; those that are no flags are not judged.

    Raises:
        ConfigError: the flag, the nearest one the command has, and where they are explained.
    """
    used = list(parsers_in_use(parser))
    for word in filter(is_flag, words):
        raise not_an_option(word, used)


def not_an_option(word: str, used: Sequence[argparse.ArgumentParser]) -> ConfigError:
    """The error of an unknown flag; `used` are the parsers of the command, its own last."""
    near = nearest(word, [flag for one in used for flag in own_flags(one)])
    command = used[-1].prog
    fix = f"did you mean {near}? All: {command} --help." if near else f"see {command} --help."
    return ConfigError(name_of(word), f"is not an option of {command.removeprefix('codellama ')}.", fix=fix)


def refuse_unknown_command(name: str, known: Sequence[str]) -> None:
    """Refuse a first word that is no command.

    Raises:
        ConfigError: with the nearest command, or all of them.
    """
    if name and name not in known:
        near = get_close_matches(name, known, n=1)
        raise ConfigError(name, "is not a command of codellama.", fix=f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}.")


def is_flag(word: str) -> bool:
    """Whether a word of the command line is meant as a flag: not `-`, and no negative number."""
    return word.startswith("-") and bool(word.strip("-")) and not word[1:2].isdigit()


def name_of(word: str) -> str:
    """`--flag` of `--flag=value`."""
    return word.partition("=")[0]


def nearest(word: str, flags: Sequence[str]) -> str:
    """The flag a misspelled one is nearest to; empty when none is near."""
    found = get_close_matches(name_of(word), flags, n=1, cutoff=CLOSE)
    return found[0] if found else ""


def own_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Every spelling of every long flag of a parser, but not of its subcommands."""
    return [flag for flag in parser._option_string_actions if flag.startswith("--")]
