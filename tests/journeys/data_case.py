"""Small records, and `codellama data` and the tools called on them."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

from mindformers_codellama.cli.main import main
from mindformers_codellama.data.mindrecord_files import find_mindrecords

ROOT = Path(__file__).parents[2]
TINY = "codellama_tiny"


def alpaca(count):
    return [{"instruction": f"Write number {i}.", "input": "as text" * (i % 2), "output": f"print({i})"} for i in range(count)]


def write_json(path, records):
    path.write_text(json.dumps(records, ensure_ascii=False))
    return path


def read_all(path, columns):
    from mindspore.dataset import MindDataset

    files = [str(file) for file in find_mindrecords([path])]
    rows = MindDataset(files, columns_list=columns, shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True)
    return [{column: row[column].tolist() for column in columns} for row in rows]


def prepare(tmp_path, *words, source=None, output="out.mindrecord"):
    source = source if source is not None else write_json(tmp_path / "alpaca.json", alpaca(20))
    return main(["data", "prepare", str(source), "--output", str(tmp_path / output), "--tokenizer", TINY, "--seq-length", "128", *words])


def run_tool_here(name, *words):
    """The tool as a program, in this process, where everything is imported already; its exit code."""
    with mock.patch.object(sys, "argv", [name, *map(str, words)]):
        try:
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
        except SystemExit as end:
            return end.code or 0
    return 0


def run_tool(name, *words):
    """The tool in a process of its own."""
    return subprocess.run([sys.executable, str(ROOT / "tools" / name), *map(str, words)], capture_output=True, text=True, timeout=120)
