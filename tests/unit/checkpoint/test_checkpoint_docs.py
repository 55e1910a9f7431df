"""docs/checkpoints.md says what the code does."""

import argparse
import re
import shlex
from pathlib import Path

from mindformers_codellama.checkpoint.weight_map import HF, META
from mindformers_codellama.cli import merge, reshard, shard
from mindformers_codellama.cli.convert import EXAMPLES, add_arguments
from mindformers_codellama.cli.transform_ckpt import transform_arguments

PAGE = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()


def test_the_table_of_names_is_the_weight_map():
    section = PAGE.split("## Names")[1].split("##")[0]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)`( \(rows reordered\))? \|$", section, re.MULTILINE)
    meta = {rule.ours: rule for rule in META}
    assert rows == [(r.theirs, r.ours, meta[r.ours].theirs, " (rows reordered)" if meta[r.ours].rotary_heads else "") for r in HF]


def test_every_command_shown_is_understood():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    commands = re.findall(r"^ *codellama convert (.+)$", PAGE + EXAMPLES, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        parser.parse_args(shlex.split(command, comments=True))


def test_every_sharding_command_is_understood():
    for module, least in ((shard, 4), (merge, 4), (reshard, 5)):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        name = module.__name__.rpartition(".")[2]
        commands = re.findall(rf"^ *codellama {name} (.+)$", PAGE + module.EXAMPLES, re.MULTILINE)
        assert len(commands) >= least
        for command in commands:
            parser.parse_args(shlex.split(command, comments=True))
    for command in re.findall(r"^python tools/transform_ckpt.py (.+)$", PAGE, re.MULTILINE):
        assert transform_arguments(shlex.split(command))[0] == "reshard"
