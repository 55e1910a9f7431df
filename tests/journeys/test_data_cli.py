"""`codellama data` and the two tools from the command line to rows on disk."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from data_case import ROOT, TINY, alpaca, prepare, read_all, run_tool, run_tool_here, write_json

from mindformers_codellama.cli.main import main
from mindformers_codellama.data.mindrecord_files import find_mindrecords, read_header

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "data"))
from oracle_rows import qa_row, wiki_rows

DATA = Path(os.environ.get("CODELLAMA_SHARED_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="module")
def plain():
    import sentencepiece

    from mindformers_codellama.text.auto import AutoTokenizer

    processor = sentencepiece.SentencePieceProcessor(model_file=str(AutoTokenizer.from_pretrained(TINY).path))
    return lambda text: [1, *processor.encode(text), 2]


def test_the_seeds_two_commands_give_the_contracts_rows(tmp_path, plain):
    records = [*alpaca(30), {"instruction": "Nothing.", "input": "", "output": ""}]
    source = write_json(tmp_path / "code.json", records)
    conversation = tmp_path / "code-conversation.json"
    done = run_tool("alpaca_converter.py", "--data_path", source, "--output_path", conversation)
    assert done.returncode == 0, done.stderr
    made = json.loads(conversation.read_text())
    assert [item["id"] for item in made] == [str(i) for i in range(1, 32)]
    assert conversation.read_text() == json.dumps(made, indent=2, ensure_ascii=False), "the bytes json.dump writes"
    first = made[1]["conversations"]
    assert first[0]["from"] == "human"
    assert first[0]["value"].endswith("### Instruction:\nWrite number 1.\n\n### Input:\nas text\n\n### Response:")
    assert first[1] == {"from": "gpt", "value": "print(1)"}

    words = [
        "--dataset_type",
        "qa",
        "--input_glob",
        conversation,
        "--model_file",
        ROOT / "mindformers_codellama/text/assets/codellama_tiny/tokenizer.model",
    ]
    done = run_tool("llama_preprocess.py", *words, "--seq_length", 140, "--output_file", tmp_path / "qa.mindrecord")
    assert done.returncode == 0, done.stderr
    rows = read_all(tmp_path / "qa.mindrecord", ["input_ids", "labels"])
    assert [(row["input_ids"], row["labels"]) for row in rows] == [qa_row(item["conversations"], plain, 141) for item in made]
    assert f"without a label, kept: {conversation}" in done.stdout
    assert "record 30" in done.stdout


def test_wiki_rows_are_the_contracts_and_all_parts_are_read_back(tmp_path, plain):
    text = "".join(f' = Title {i} = \n \n The first paragraph of {i} , " quoted " . \n \n Another one ( {i} ) \n \n' for i in range(60))
    (tmp_path / "wiki.tokens").write_text(text)
    words = ["--dataset_type", "wiki", "--input_glob", tmp_path / "wiki.tokens", "--seq_length", 30, "--repeat", 2, "--file_partition", 3]
    words += [
        "--model_file",
        ROOT / "mindformers_codellama/text/assets/codellama_tiny/tokenizer.model",
        "--output_file",
        tmp_path / "w.mindrecord",
    ]
    assert run_tool_here("llama_preprocess.py", *words) == 0
    expected = wiki_rows(text, plain, 31, repeat=2)
    for given in (tmp_path, tmp_path / "w.mindrecord", tmp_path / "w.mindrecord1"):
        rows = [row["input_ids"] for row in read_all(given, ["input_ids"])]
        assert sorted(rows) == sorted(expected), given
    assert len(find_mindrecords([tmp_path])) == 3


@pytest.mark.parametrize("count", [6, 20, 23])
def test_rows_spread_over_parts_are_in_the_same_order_on_every_run(tmp_path, count):
    source = write_json(tmp_path / "a.json", alpaca(count))
    for name in "ab":
        assert prepare(tmp_path, "--parts", "3", source=source, output=f"{name}.mindrecord") == 0
    first, second = (read_all(tmp_path / f"{name}.mindrecord", ["input_ids"]) for name in "ab")
    assert first == second
    assert len(first) == count


def test_workers_do_not_change_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("mindformers_codellama.data.prepare_rows._SMALL", 0)
    source = write_json(tmp_path / "a.json", alpaca(300))
    for name, workers in (("a", "1"), ("b", "2")):
        assert prepare(tmp_path, "--workers", workers, source=source, output=f"{name}.mindrecord") == 0
    columns = ["input_ids", "labels"]
    assert read_all(tmp_path / "a.mindrecord", columns) == read_all(tmp_path / "b.mindrecord", columns)


def test_the_three_forms_of_records_give_equal_rows(tmp_path):
    turns = [(f"question {i}", f"answer {i}") for i in range(5)]
    sharegpt = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in turns]
    messages = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in turns]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, messages)))
    assert prepare(tmp_path, source=write_json(tmp_path / "s.json", sharegpt), output="s.mindrecord") == 0
    assert prepare(tmp_path, source=tmp_path / "m.jsonl", output="m.mindrecord") == 0
    assert read_all(tmp_path / "s.mindrecord", ["input_ids", "labels"]) == read_all(tmp_path / "m.mindrecord", ["input_ids", "labels"])


def test_the_manifest_holds_what_the_data_was_made_of(tmp_path):
    import hashlib

    from mindformers_codellama.text.auto import AutoTokenizer

    assert prepare(tmp_path) == 0
    manifest = json.loads((tmp_path / "out.mindrecord.manifest.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    rows = read_all(tmp_path / "out.mindrecord", ["input_ids"])
    assert manifest["tokenizer_sha256"] == tokenizer.sha256
    assert (manifest["tokenizer"], manifest["vocab_size"]) == (TINY, tokenizer.vocab_size)
    assert manifest["seq_length"] == len(rows[0]["input_ids"]) - 1 == 128
    assert manifest["rows"] == len(rows) == 20
    assert manifest["max_token_id"] == max(max(row["input_ids"]) for row in rows)
    assert manifest["sources"][0]["sha256"] == hashlib.sha256((tmp_path / "alpaca.json").read_bytes()).hexdigest()


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    assert prepare(tmp_path, "--dry-run") == 0
    assert "20 rows of 129 ids (input_ids, labels) would be written" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["alpaca.json"]


def test_packed_rows_read_back_with_their_columns(tmp_path, capsys):
    assert prepare(tmp_path, "--pack", "--seq-length", "400") == 0
    assert read_header(tmp_path / "out.mindrecord").columns == ("input_ids", "labels", "position_ids", "segment_ids")
    rows = read_all(tmp_path / "out.mindrecord", ["segment_ids"])
    assert sum(max(row["segment_ids"]) for row in rows) == 20
    assert len(rows) < 20
    capsys.readouterr()
    assert main(["data", "inspect", str(tmp_path / "out.mindrecord"), "--rows", "0", "--tokenizer", TINY]) == 0
    shown = capsys.readouterr().out
    assert "packed: True" in shown
    assert "learned_text: print(" in shown.replace("learned_text:  ", "learned_text: ")


READ = """
from mindformers_codellama.data.records import read_records
for record in read_records(source):
    pass
"""


ENCODE = """
from mindformers_codellama.data.prepare import prepare
from mindformers_codellama.data.prepare_request import PrepareRequest
output = source.with_suffix(".mindrecord")
prepare(PrepareRequest(inputs=(source,), output=output, tokenizer="codellama_tiny", seq_length=512, dry_run=True, pack=True))
"""


MEASURED = """
import resource, sys
from pathlib import Path
source = Path(sys.argv[1])
{code}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize(("code", "counts", "kept_mb"), [(READ, (4_000, 24_000), 3), (ENCODE, (1_000, 6_000), 3)], ids=["read", "encode"])
def test_memory_does_not_grow_with_the_file(tmp_path, code, counts, kept_mb):
    """Peak of a child on a small and a large file: 10 MB more records, or 2.5 MB that become a million ids, leave no trace."""
    peaks = []
    for count in counts:
        source = tmp_path / f"{count}.json"
        with source.open("w") as file:
            for i in range(count):
                record = {"instruction": f"number {i} " + "word " * 70, "input": "", "output": "y" * 100}
                file.write(("[" if i == 0 else ",") + json.dumps(record))
            file.write("]")
        words = [sys.executable, "-c", MEASURED.format(code=code), str(source)]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < kept_mb, peaks


@pytest.mark.skipif(not (DATA / "code_alpaca_2k.json").exists(), reason="needs code_alpaca_2k.json (CODELLAMA_SHARED_DATA)")
def test_code_alpaca_with_the_llama_tokenizer_equals_the_contract(tmp_path):
    import sentencepiece

    model = DATA / "llama_tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert main(["data", "convert", str(DATA / "code_alpaca_2k.json"), str(tmp_path / "c.json")]) == 0
    words = ["data", "prepare", str(tmp_path / "c.json"), "--tokenizer", str(model), "--seq-length", "256", "--all-masked", "keep"]
    assert main([*words, "--output", str(tmp_path / "q.mindrecord")]) == 0
    rows = read_all(tmp_path / "q.mindrecord", ["input_ids", "labels"])
    assert len(rows) == 2017
    conversations = json.loads((tmp_path / "c.json").read_text())
    for number in range(0, 2017, 3):
        expected = qa_row(conversations[number]["conversations"], lambda text: [1, *processor.encode(text), 2], 257)
        assert (rows[number]["input_ids"], rows[number]["labels"]) == expected, number


def test_every_command_of_the_docs_page_runs(tmp_path, monkeypatch):
    """In the order of the page, in a folder that looks like the repository's root."""
    for name in ("mindformers_codellama", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    lines = [line for line in (ROOT / "docs" / "data.md").read_text().splitlines() if line.startswith(("codellama ", "python "))]
    assert len(lines) == 12
    for line in lines:
        program, *words = shlex.split(line)
        if program == "codellama":
            assert main(words) == 0, line
        else:
            assert run_tool_here(Path(words[0]).name, *words[1:]) == 0, line
