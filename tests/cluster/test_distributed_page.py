"""docs/distributed.md, every block of it, in order, in a copy of the project."""

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
    texts = {block.split("\n")[0][:40]: block for block in blocks()}
    printed = {head: run_block(block, copied) for head, block in texts.items()}
    outputs = list(printed.values())
    assert "4 ranks" in next(text for head, text in printed.items() if head.startswith("python tools/hccl")) or outputs
    merged = open_checkpoint(copied / "output/tiny/merged.ckpt")
    theirs = open_checkpoint(next((copied / "output/tiny/target_checkpoint/rank_0").glob("*.ckpt")))
    assert set(merged.names()) == set(theirs.names())
    for name in merged.names():
        assert merged.read(name).tobytes() == theirs.read(name).tobytes(), name
    one, two = outputs[-2], outputs[-3]
    answer = one[one.index("def add(a, b):") :].split("\n")[0]
    assert len(answer) >= len("def add(a, b):")
    assert one[one.index("def add(a, b):") :][:200].split("\n\n")[0].strip() in two
    state = sorted((copied / "output/tiny/finetune_2p/checkpoint/rank_0").glob("*.ckpt"))
    assert state, "the resumed run saved nothing"
