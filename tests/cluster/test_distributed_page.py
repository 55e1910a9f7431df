"""docs/distributed.md, every block of it, in order, in a copy of the project."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama.checkpoint.open import open_checkpoint

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "distributed.md"
ALPACA = PROJECT.parent / "shared" / "data" / "code_alpaca_2k.json"


def blocks() -> list[str]:
    """The shell blocks of the page."""
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the files a user has after cloning."""
    target = tmp_path_factory.mktemp("clone") / "project"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, names):
        source = PROJECT / os.fsdecode(name)
        if source.is_file():
            (target / os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
            (target / os.fsdecode(name)).write_bytes(source.read_bytes())
            (target / os.fsdecode(name)).chmod(source.stat().st_mode)
    return target


def run_block(text: str, folder: Path) -> str:
    """What a block prints; its variables are kept in a file for the next one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RANK", "MS_", "DEVICE_ID"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["PYTHON"] = sys.executable
    if ALPACA.is_file():
        environment["DATA"] = str(ALPACA)
    script = f"set -euo pipefail\n[ ! -f .variables ] || . ./.variables\n{text}\ndeclare -p TOKENIZER DATA > .variables\n"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=580
    )
    assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.mark.timeout(1500)
def test_the_page_works_from_top_to_bottom(copied):
    printed = {block: run_block(block, copied) for block in blocks()}
    assert len(printed) == len(blocks()), "no block stands twice on the page"

    def output_of(command: str) -> str:
        return next(text for block, text in printed.items() if command in block)

    assert "24 steps in" in output_of("finetune_codellama_tiny_4p.yaml [0,4] finetune")
    assert all((copied / f"output/tiny/finetune_4p/strategy/ckpt_strategy_rank_{rank}.ckpt").is_file() for rank in range(4))
    ours = open_checkpoint(copied / "output/tiny/merged.ckpt")
    theirs = open_checkpoint(next((copied / "output/tiny/target_checkpoint/rank_0").glob("*.ckpt")))
    assert set(ours.names()) == set(theirs.names())
    assert all(ours.read(name).tobytes() == theirs.read(name).tobytes() for name in ours.names())
    (answer,) = ast.literal_eval((copied / "text_generation_result.txt").read_text(encoding="utf-8"))
    assert answer["text_generation_text"][0] in output_of("codellama predict configs")
    resumed = copied / "output/tiny/finetune_2p/checkpoint"
    assert all((resumed / f"rank_{rank}" / f"codellama_tiny_rank_{rank}-2_24.ckpt").is_file() for rank in range(2))
    assert "24 steps and 24 updates are done" in output_of("--resume_training True")
