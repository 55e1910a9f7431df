"""Mindrecord files of ours under the real MindFormers' dataset, and its tokenizer behind the golden rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers_codellama.cli.main import main
from mindformers_codellama.config.sections_data import DataLoaderSection, DatasetSection
from mindformers_codellama.data.batches import open_batches

pytestmark = pytest.mark.mindformers
pytest.importorskip("mindformers", reason="needs the [mindformers] extra")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindFormers writes ./output/log


def prepare(tmp_path, parts):
    records = [{"instruction": f"Write {i}.", "input": "", "output": f"print({i})"} for i in range(21)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    words = ["data", "prepare", str(tmp_path / "a.json"), "--tokenizer", "codellama_tiny", "--seq-length", "96", "--parts", str(parts)]
    assert main([*words, "--output", str(tmp_path / "d" / "x.mindrecord")]) == 0
    return tmp_path / "d"


def first_row(batch):
    return batch["input_ids"].tolist()


@pytest.mark.parametrize(("parts", "given"), [(1, "x.mindrecord"), (1, ""), (3, "x.mindrecord0"), (3, "")])
def test_mindformers_reads_our_rows_and_ours_reads_the_same(tmp_path, parts, given):
    from mindformers import MindFormerConfig
    from mindformers.dataset import CausalLanguageModelDataset

    path = prepare(tmp_path, parts) / given
    columns = ["input_ids", "labels"]
    config = MindFormerConfig(
        data_loader={"type": "MindDataset", "dataset_dir": str(path), "shuffle": False},
        input_columns=columns,
        num_parallel_workers=1,
        batch_size=1,
        drop_remainder=True,
        repeat=1,
        seed=0,
    )
    theirs = list(CausalLanguageModelDataset(config).create_dict_iterator(num_epochs=1, output_numpy=True))
    section = DatasetSection(data_loader=DataLoaderSection(dataset_dir=str(path), shuffle=False), input_columns=tuple(columns))
    ours = list(open_batches(section, batch_size=1, row_length=97, vocab_size=2048, seed=0).epoch(0))
    assert len(ours) == 21
    for mine, his in zip(sorted(ours, key=first_row), sorted(theirs, key=first_row), strict=True):
        assert all(np.array_equal(mine[column], his[column]) for column in columns)


def test_the_golden_rows_are_what_the_generator_makes_now():
    words = [sys.executable, str(ROOT / "tests" / "golden" / "make_data_rows.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | {"GLOG_v": "3"})
    assert done.returncode == 0, done.stderr[-500:]
