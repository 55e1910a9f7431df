"""docs/infilling.md: its Python examples and its commands run, on the tiny model of random weights."""

import doctest
import json
import re
import shlex
from pathlib import Path

from mindformers_codellama.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "infilling.md"
APP = "def add(a, b):\n    \n\nprint(add(1, 2))\n"


def test_the_examples_of_the_page_give_what_it_says():
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted >= 12
    assert result.failed == 0


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("app.py").write_text(APP, encoding="utf-8")
    Path("models.py").write_text("class User:\n    name: str\n", encoding="utf-8")
    Path("draft.py").write_text("a = <FILL>\nb = <FILL>\n", encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    outputs = []
    for line in block.splitlines():
        program, *words = shlex.split(line)
        assert (program, main([*words, "--max-new-tokens", "6"])) == ("codellama", 0), line
        outputs.append(capsys.readouterr().out)
    assert len(outputs) == 5
    middle, diff, nothing, record, text = outputs
    before, after = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
    assert Path("app.py").read_text(encoding="utf-8") == before + middle + after
    assert Path("app.py.bak").read_text(encoding="utf-8") == APP
    assert diff.startswith("--- a/app.py\n+++ b/app.py\n@@")
    assert nothing == ""
    assert json.loads(record)["text"] == "a = {}\nb = {}\n".format(*(one["middle"] for one in json.loads(record)["middles"]))
    assert text.startswith(before)
    assert text.endswith(after.rstrip("\n"))
