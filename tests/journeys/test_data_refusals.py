"""What `codellama data` refuses, and that a refused, killed or failed run leaves nothing half made."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from data_case import TINY, alpaca, prepare, write_json

from mindformers_codellama.cli.main import main
from mindformers_codellama.data.mindrecord import write_rows
from mindformers_codellama.data.mindrecord_files import count_rows, find_mindrecords, read_header
from mindformers_codellama.errors import DataError


def test_a_missing_part_is_named(tmp_path):
    assert prepare(tmp_path, "--parts", "3") == 0
    (tmp_path / "out.mindrecord1").unlink()
    with pytest.raises(DataError, match=r"out.mindrecord1: is missing: out.mindrecord0 belongs to a set that has this part"):
        find_mindrecords([tmp_path])


def test_bad_records_are_refused_together_and_skipped_with_counts(tmp_path, capsys):
    records = alpaca(6)
    records[2] = {"instruction": "x"}
    records[4] = {"instruction": "x", "output": 5}
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(map(json.dumps, records)) + "\n{oops\n")
    assert prepare(tmp_path, source=source) == 4
    message = capsys.readouterr().err
    assert "3 problems:" in message
    assert f"{source}:3: record 2: missing key: 'output'" in message
    assert f"{source}:5: record 4: not text: output is a number" in message
    assert f"{source}:7: record 6: not JSON" in message
    assert list(tmp_path.iterdir()) == [source], "nothing is left behind"
    assert prepare(tmp_path, "--skip-bad", "--json", source=source) == 0
    manifest = json.loads(capsys.readouterr().out)["manifest"]
    assert manifest["bad_records"] == {"missing key": 1, "not text": 1, "not readable": 1}
    assert manifest["rows"] == 4
    assert manifest["sources"][0]["records"] == 7


def test_an_existing_output_is_kept_without_force_and_replaced_with_it(tmp_path, capsys):
    assert prepare(tmp_path, "--parts", "3") == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert prepare(tmp_path) == 4
    assert "exists already. Fix: write to another name, or give --force" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert prepare(tmp_path, "--force") == 0
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"alpaca.json", "out.mindrecord", "out.mindrecord.db", "out.mindrecord.manifest.json"}, "parts of the old set are gone"


def test_answers_cut_away_are_counted_named_dropped_or_refused(tmp_path, capsys):
    records = [*alpaca(3), {"instruction": "word " * 300, "input": "", "output": "x"}]
    source = write_json(tmp_path / "a.json", records)
    assert prepare(tmp_path, source=source) == 0
    out = capsys.readouterr().out
    assert "samples without a label: 1" in out
    assert "record 3" in out
    assert count_rows(tmp_path / "out.mindrecord") == 3
    assert prepare(tmp_path, "--all-masked", "keep", "--force", source=source) == 0
    assert count_rows(tmp_path / "out.mindrecord") == 4
    assert prepare(tmp_path, "--all-masked", "refuse", "--force", source=source) == 4
    assert "has no label left: its answer begins beyond the 129 ids of a row" in capsys.readouterr().err
    assert count_rows(tmp_path / "out.mindrecord") == 4, "a refused run leaves the old output"
    assert prepare(tmp_path, "--seq-length", "16", output="b.mindrecord", source=source) == 4
    assert "every answer was cut away: all 4 samples have no label within 17 ids" in capsys.readouterr().err


def test_too_little_text_is_an_empty_dataset(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("short")
    words = [
        "data",
        "prepare",
        "--text",
        str(tmp_path / "a.txt"),
        "--tokenizer",
        TINY,
        "--seq-length",
        "64",
        "--output",
        str(tmp_path / "o.mindrecord"),
    ]
    assert main(words) == 4
    assert "the dataset is empty: its" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_inspect_refuses_a_row_out_of_range_and_another_tokenizer(tmp_path, capsys):
    from mindformers_codellama.text.auto import AutoTokenizer

    assert prepare(tmp_path) == 0
    assert main(["data", "inspect", str(tmp_path / "out.mindrecord"), "--rows", "20"]) == 4
    assert "has no row 20; it has 20. Fix: write a number from 0 to 19" in capsys.readouterr().err
    other = tmp_path / "other.model"
    blob = AutoTokenizer.from_pretrained(TINY).path.read_bytes()
    manifest = tmp_path / "out.mindrecord.manifest.json"
    manifest.write_text(manifest.read_text().replace(json.loads(manifest.read_text())["tokenizer_sha256"], "0" * 64))
    other.write_bytes(blob)
    assert main(["data", "inspect", str(tmp_path / "out.mindrecord"), "--tokenizer", str(other)]) == 4
    assert "is not the tokenizer" in capsys.readouterr().err


def test_a_flipped_byte_is_found_by_verify(tmp_path, capsys):
    assert prepare(tmp_path) == 0
    path = tmp_path / "out.mindrecord"
    assert main(["data", "inspect", str(path), "--verify"]) == 0
    with path.open("r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    capsys.readouterr()
    assert main(["data", "inspect", str(path), "--verify"]) == 4
    assert f"{path}: is damaged: its bytes are not those that were written" in capsys.readouterr().err


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    """RLIMIT_FSIZE stands for a full disk: the header of a mindrecord alone is 16 MB."""
    source = write_json(tmp_path / "a.json", alpaca(20))
    words = ["data", "prepare", str(source), "--output", str(tmp_path / "o.mindrecord"), "--tokenizer", TINY, "--seq-length", "128"]
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20)); "
        "from mindformers_codellama.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120, env=os.environ | {"GLOG_v": "3"}
    )
    assert done.returncode == 4, done.stderr
    assert "codellama: error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from mindformers_codellama.data.mindrecord import write_rows

def rows():
    for _ in range(600):
        yield {"input_ids": np.arange(5, dtype=np.int32)}
    print("half", flush=True)
    time.sleep(100)

write_rows(Path(sys.argv[1]), rows(), columns=["input_ids"], description="wiki")
"""


def test_a_killed_run_leaves_no_file_under_the_name_and_the_next_run_tidies_up(tmp_path):
    def unfinished():
        return [file for file in tmp_path.iterdir() if file.name.startswith(".x.mindrecord.unfinished-")]

    def write():
        write_rows(tmp_path / "x.mindrecord", [{"input_ids": np.arange(5, dtype=np.int32)}], columns=["input_ids"], description="wiki")

    (tmp_path / ".x.mindrecord.mine").mkdir()
    with subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path / "x.mindrecord")], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        assert len(unfinished()) == 1
        write()
        assert len(unfinished()) == 1, "the folder of a run that is still alive is left alone"
        child.kill()
    assert len(unfinished()) == 1
    for file in tmp_path.glob("x.mindrecord*"):
        file.unlink()
    write()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".x.mindrecord.mine", "x.mindrecord", "x.mindrecord.db"]


def test_an_input_is_never_the_output(tmp_path, capsys):
    source = write_json(tmp_path / "a.mindrecord", alpaca(3))
    before = source.read_bytes()
    assert prepare(tmp_path, "--force", source=source, output="a.mindrecord") == 4
    assert "a.mindrecord: is also an input. Fix: write to another name" in capsys.readouterr().err
    assert main(["data", "convert", str(source), str(source), "--force"]) == 4
    assert "a.mindrecord: is the input itself. Fix: write to another name" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--output", "x.json", "a.json"],
            "x.json: does not end with .mindrecord: a folder of data would not find it. Fix: write x.json.mind",
        ),
        ([], "INPUT: no file was given. Fix: name files of records, or --text SOURCE"),
        (["."], ".: is a folder, a file is needed. Fix: give one file, or --text FOLDER for plain text"),
        (["gone.json"], "gone.json: no such file. Fix: check the path"),
        (["a.json", "--workers", "0"], "--workers: got 0, must be at least 1"),
        (["--text", "python-stdlib", "--max-bytes", "0"], "--max-bytes: got 0, must be at least 1"),
        (["a.json", "--format", "chat"], "format: got 'chat'. Fix: write one of auto, alpaca, sharegpt, messages"),
        (["a.json", "--template", "chat"], "template: 'chat' is not "),
        (["empty.json"], "empty.json: the file is empty. Fix: give a JSON array"),
        (["none.json"], "none.json: the dataset is empty: it holds no usable record"),
        (["bytes.json"], "bytes.json: is not UTF-8 text"),
    ],
)
def test_wrong_words_are_one_line_and_write_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "a.json", alpaca(3))
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    before = sorted(tmp_path.iterdir())
    start = ["data", "prepare", "--tokenizer", TINY, "--seq-length", "64", "--output", "x.mindrecord"]
    assert main([*start, *words]) == 4
    error = capsys.readouterr().err
    assert error.startswith(f"codellama: error: {message}")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_after_ten_bad_records_reading_stops_and_says_so(tmp_path, capsys):
    source = write_json(tmp_path / "a.json", [*alpaca(2), *[{"instruction": "x"}] * 12])
    assert prepare(tmp_path, source=source) == 4
    by_prepare = capsys.readouterr().err
    assert main(["data", "convert", str(source), str(tmp_path / "c.json")]) == 4
    assert capsys.readouterr().err == by_prepare, "both commands say the same"
    lines = by_prepare.splitlines()
    assert lines[0] == "codellama: error: 10 problems:"
    assert lines[-1].endswith("leave it out with --skip-bad. Reading stopped after 10; later ones are not judged.")
    assert by_prepare.count("Reading stopped") == 1


def test_a_failure_between_rows_leaves_no_file(tmp_path):
    def rows():
        yield {"input_ids": np.arange(5, dtype=np.int32)}
        raise DataError("row 1", "is bad.")

    with pytest.raises(DataError, match="row 1: is bad"):
        write_rows(tmp_path / "x.mindrecord", rows(), columns=["input_ids"], description="wiki")
    assert not list(tmp_path.iterdir())


def test_more_parts_than_rows_are_refused(tmp_path):
    rows = [{"input_ids": np.arange(5, dtype=np.int32)}] * 2
    with pytest.raises(DataError, match=r"has 2 rows for 3 parts. Fix: ask for at most 2 parts"):
        write_rows(tmp_path / "x.mindrecord", rows, columns=["input_ids"], description="wiki", parts=3)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [("cut", "is cut short"), ("header", "is not a mindrecord file"), ("index", "index beside it"), ("name", "cannot be renamed")],
)
def test_damaged_files_are_told_apart(tmp_path, damage, problem):
    assert prepare(tmp_path) == 0
    file, index = tmp_path / "out.mindrecord", tmp_path / "out.mindrecord.db"
    if damage == "cut":
        os.truncate(file, file.stat().st_size - 100)
    elif damage == "header":
        file.write_bytes(b"\xff" * 100)
    elif damage == "index":
        index.unlink()
    else:
        file.rename(tmp_path / "new.mindrecord")
        index.rename(tmp_path / "new.mindrecord.db")
        file = tmp_path / "new.mindrecord"
    with pytest.raises(DataError, match=problem):
        read_header(file)
