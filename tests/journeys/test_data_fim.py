"""Infilling tasks from the command line to rows on disk."""

import json

import pytest
from data_case import ROOT, TINY, alpaca, read_all, run_tool, write_json

from mindformers_codellama.cli.main import main
from mindformers_codellama.config.sections_data import DataLoaderSection, DatasetSection
from mindformers_codellama.data.batches import open_batches
from mindformers_codellama.errors import DataError
from mindformers_codellama.text.auto import AutoTokenizer

TOKENIZER = AutoTokenizer.from_pretrained(TINY)
MODEL = ROOT / "mindformers_codellama/text/assets/codellama_tiny/tokenizer.model"


@pytest.fixture
def code(tmp_path):
    """Twelve files, short and long, and one that is not text."""
    folder = tmp_path / "code"
    folder.mkdir()
    for number in range(12):
        lines = [f"value_{number}_{line} = {line} * {number}\n" for line in range(1 + 7 * number)]
        (folder / f"{number:02}.py").write_text("".join(lines))
    return folder


def prepared(tmp_path, code, name, *words, length=128):
    output = tmp_path / f"{name}.mindrecord"
    command = ["data", "prepare", "--text", str(code), "--tokenizer", TINY, "--seq-length", str(length), "--output", str(output)]
    assert main([*command, *words]) == 0
    return output


def tasks(row):
    """Samples of a row, each from its begin token on."""
    ids = row[: max((at for at, token in enumerate(row) if token), default=-1) + 1]
    starts = [at for at, token in enumerate(ids) if token == TOKENIZER.bos_token_id]
    return [ids[start:end] for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]


def test_rows_hold_whole_tasks_and_all_the_text(tmp_path, code):
    output = prepared(tmp_path, code, "f", "--fim", "--fim-rate", "1", "--fim-spm-rate", "0")
    found = [task for row in read_all(output, ["input_ids"]) for task in tasks(row["input_ids"])]
    texts = []
    for task in found:
        suf, mid = task.index(TOKENIZER.suffix_id), task.index(TOKENIZER.middle_id)
        assert (task[1], task[-1]) == (TOKENIZER.prefix_id, TOKENIZER.eot_id)
        middle, suffix = TOKENIZER.decode_infilling(task[mid + 1 : -1]), TOKENIZER.decode_infilling(task[suf + 1 : mid])
        texts.append(TOKENIZER.decode_pieces(task[2:suf]) + middle + suffix)
    lines = sorted("".join(texts).splitlines())
    assert lines == sorted(line for file in code.iterdir() for line in file.read_text().splitlines())
    manifest = json.loads((tmp_path / "f.mindrecord.manifest.json").read_text())
    assert manifest["fim"] == {"rate": 1.0, "spm_rate": 0.0, "line_rate": 0.0, "seed": 0, "part_from": 0.1, "loss": "all"}
    assert (manifest["counts"]["documents"], manifest["counts"]["infilling tasks, prefix first"]) == (12, len(found))
    assert manifest["columns"] == ["input_ids"]


@pytest.mark.parametrize("words", [[], ["--pack", "--fim-loss", "middle"]], ids=["rows", "packed"])
def test_one_and_three_workers_write_the_same_bytes(tmp_path, code, monkeypatch, words):
    monkeypatch.setattr("mindformers_codellama.data.prepare_rows._SMALL", 0)
    one, three = (
        prepared(tmp_path / folder, code, "f", "--fim", "--workers", workers, *words)
        for folder, workers in (("one", "1"), ("three", "3"))
        if not (tmp_path / folder).mkdir()
    )
    assert one.read_bytes() == three.read_bytes()
    manifests = [json.loads(output.with_name("f.mindrecord.manifest.json").read_text()) for output in (one, three)]
    assert manifests[0] == manifests[1]


def test_another_seed_and_a_repeat_cut_elsewhere(tmp_path, code):
    first, other = (read_all(prepared(tmp_path, code, name, "--fim", "--fim-seed", name), ["input_ids"]) for name in "01")
    assert first != other
    twice = [row["input_ids"] for row in read_all(prepared(tmp_path, code, "t", "--fim", "--repeat", "2"), ["input_ids"])]
    found = [tuple(task) for row in twice for task in tasks(row) if len(task) > 40]
    assert len(set(found)) > 0.9 * len(found)


def test_packed_tasks_do_not_see_each_other_and_only_middles_are_learned(tmp_path, code, capsys):
    output = prepared(tmp_path, code, "p", "--fim", "--fim-rate", "1", "--fim-loss", "middle", "--pack", length=512)
    for row in read_all(output, ["input_ids", "labels", "segment_ids", "position_ids"]):
        assert max(row["segment_ids"]) == len(tasks(row["input_ids"]))
        assert [at for at, token in enumerate(row["input_ids"]) if token == 1] == [
            at for at, place in enumerate(row["position_ids"]) if place == 0 and row["segment_ids"][at]
        ]
        assert TOKENIZER.eot_id in row["labels"]
        assert TOKENIZER.prefix_id not in row["labels"]
    capsys.readouterr()
    assert main(["data", "inspect", str(output), "--tokenizer", TINY]) == 0
    shown = capsys.readouterr().out
    assert "fim: {'rate': 1.0, 'spm_rate': 0.5, 'line_rate': 0.0, 'seed': 0, 'part_from': 0.1, 'loss': 'middle'}" in shown
    assert "infilling tasks, suffix first" in shown
    text, learned = (next(line for line in shown.splitlines() if line.startswith(f"  {name}: ")) for name in ("text", "learned_text"))
    assert text.startswith("  text: <s><PRE>"), "marks are written out"
    assert "<EOT>" in learned + shown.partition("learned_text")[2]
    assert "<PRE>" not in shown.partition("learned_text")[2]


def test_the_preprocess_tool_takes_the_same_options(tmp_path, code):
    words = ["--dataset_type", "text", "--input_glob", code, "--model_file", MODEL, "--seq_length", 128, "--fim_rate", 0.9]
    done = run_tool("llama_preprocess.py", *words, "--output_file", tmp_path / "tool.mindrecord")
    assert done.returncode == 0, done.stderr
    own = prepared(tmp_path, code, "own", "--fim")
    assert read_all(own, ["input_ids"]) == read_all(tmp_path / "tool.mindrecord", ["input_ids"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fim", "--fim-rate", "1.5"], "--fim-rate: got 1.5, must be from 0 to 1"),
        (["--fim-spm-rate", "0.3"], "--fim-spm-rate: has no effect without --fim"),
        (["--fim", "--type", "wiki"], "rows of type wiki are not cut from documents"),
        (["--fim", "--seq-length", "20"], "with --fim it must be at least 32"),
        (["--fim", "--fim-loss", "some"], "write one of all, middle"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, code, capsys, words, told):
    command = ["data", "prepare", "--text", str(code), "--tokenizer", TINY, "--seq-length", "128", *words]
    assert main([*command, "--output", str(tmp_path / "x.mindrecord")]) != 0
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("x.mindrecord*"))


def test_a_tokenizer_without_the_marks_is_refused(tmp_path, code, capsys):
    model = tmp_path / "plain.model"
    model.write_bytes(MODEL.read_bytes().replace(b"<MID>", b"<NIL>"))
    command = ["data", "prepare", "--text", str(code), "--fim", "--tokenizer", str(model), "--seq-length", "128"]
    assert main([*command, "--output", str(tmp_path / "x.mindrecord")]) != 0
    told = capsys.readouterr().err
    assert "has no infilling pieces" in told
    assert "codellama_7b" in told


WANTED = {"fim_rate": 0.9, "fim_spm_rate": 0.5}


def opened(path, **keys):
    section = DatasetSection(data_loader=DataLoaderSection(dataset_dir=str(path)), **keys)
    return open_batches(section, batch_size=2, row_length=129, vocab_size=len(TOKENIZER), seed=0)


def test_training_reads_rows_made_with_the_rates_of_the_configuration(tmp_path, code):
    output = prepared(tmp_path, code, "f", "--fim")
    batch = next(opened(output, **WANTED).epoch(0))
    assert batch["input_ids"].shape == (2, 129)
    assert TOKENIZER.middle_id in batch["input_ids"]
    with pytest.raises(DataError, match=r"asks for fim_rate: 0.5, but the file was made with fim_rate: 0.9") as caught:
        opened(output, fim_rate=0.5)
    assert "--fim --fim-rate 0.5" in caught.value.fix


def test_other_rows_are_refused_with_what_is_missing(tmp_path, code):
    plain = prepared(tmp_path, code, "plain")
    with pytest.raises(DataError, match="its documents were not made infilling tasks") as caught:
        opened(plain, **WANTED)
    assert "--fim --fim-rate 0.9 --fim-spm-rate 0.5 and the tokenizer of a model that can infill" in caught.value.fix
    (tmp_path / "plain.mindrecord.manifest.json").unlink()
    with pytest.raises(DataError, match="no manifest says how the file was made"):
        opened(plain, **WANTED)
    source = write_json(tmp_path / "a.json", alpaca(20))
    command = ["data", "prepare", str(source), "--tokenizer", TINY, "--seq-length", "128", "--output", str(tmp_path / "qa.mindrecord")]
    assert main(command) == 0
    with pytest.raises(DataError, match="rows of type qa hold no documents"):
        opened(tmp_path / "qa.mindrecord", **WANTED)
