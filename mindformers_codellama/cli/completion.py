"""`codellama completion`: what a shell needs to complete commands, options and files."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "tcsh")
EXAMPLES = """examples:
  source <(codellama completion bash)
  codellama completion zsh > ~/.zsh/completions/_codellama
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One positional argument, the shell."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to print for")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from mindformers_codellama.cli.main import build_parser, command_names

    print(shtab.complete(build_parser(command_names()), shell=arguments.shell))
    return 0
