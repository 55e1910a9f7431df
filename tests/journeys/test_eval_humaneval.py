"""`codellama eval humaneval` from prompts to pass@k, on a model of random weights; its page runs too."""

import doctest
import gzip
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from generation_case import answers

from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.evaluation.ask_functions import REQUEST, chat_completion
from mindformers_codellama.evaluation.judge import judge
from mindformers_codellama.evaluation.problems import read_problems
from mindformers_codellama.evaluation.sandbox import Limits, open_sandbox
from mindformers_codellama.evaluation.truncation import truncated
from mindformers_codellama.text.messages import chat_prompt_ids

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evaluation.md"
DATA = ROOT / "tests" / "unit" / "evaluation" / "problems.jsonl"
PROBLEMS = read_problems(DATA).tasks
NEW = 8


@pytest.fixture
def needs_sandbox():
    try:
        open_sandbox()
    except EnvironmentFault as error:
        pytest.skip(str(error))


def evaluate(capsys, *words) -> tuple[int, str, str]:
    code = main(["eval", "humaneval", *map(str, words), "--data", str(DATA)])
    return (code, *capsys.readouterr())


def drawn(folder, output, *words) -> list:
    options = ("--do-sample", "--temperature", "0.9", "--seed", "5", "--max-new-tokens", NEW, "--generate-only")
    return [folder, "--output", output, *options, *words]


def test_one_command_goes_from_prompts_to_a_report(needs_sandbox, reuse, folder, theirs, tokenizer, tmp_path, capsys):
    words = (folder, "--output", tmp_path, "--max-new-tokens", NEW, "--batch-size", 2, "--json")
    code, out, _ = evaluate(capsys, *words)
    found = json.loads(out)
    assert (code, found["tasks"], found["samples"], found["pass@1"]) == (0, 3, 3, 0.0)
    assert found["made"]["decoding"]["seed"] == 0
    assert json.loads((tmp_path / "report.json").read_text()) == found
    for line, problem in zip((tmp_path / "samples.jsonl").read_text().splitlines(), PROBLEMS.values(), strict=True):
        prompt = tokenizer.encode(problem.prompt)
        text = tokenizer.decode(answers(theirs, prompt, NEW), skip_special_tokens=True)[len(problem.prompt) :]
        assert json.loads(line) == {"task_id": problem.task_id, "completion": truncated(problem.prompt, text, problem.entry_point)}
    before = (tmp_path / "samples.jsonl").stat(), (tmp_path / "samples.jsonl_results.jsonl").read_bytes()
    assert json.loads(evaluate(capsys, *words)[1]) == found
    assert (tmp_path / "samples.jsonl").stat().st_mtime_ns == before[0].st_mtime_ns
    assert (tmp_path / "samples.jsonl_results.jsonl").read_bytes() == before[1]


def test_a_killed_run_goes_on_to_the_same_samples(reuse, folder, tmp_path, capsys):
    assert evaluate(capsys, *drawn(folder, tmp_path / "whole", "-n", 2, "--batch-size", 4))[0] == 0
    whole = (tmp_path / "whole" / "samples.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(set(lines)) == 6
    assert evaluate(capsys, *drawn(folder, tmp_path / "parts", "--limit", 2))[0] == 0
    part = tmp_path / "parts" / "samples.jsonl"
    assert part.read_bytes() == b"".join(lines[:2])
    part.write_bytes(b"".join(lines[:2]) + lines[2][:9])
    assert evaluate(capsys, *drawn(folder, tmp_path / "parts", "-n", 2))[0] == 0
    assert part.read_bytes() == whole
    code, _, err = evaluate(capsys, *drawn(folder, tmp_path / "parts", "-n", 2, "--top-k", 3))
    assert (code, "holds samples that were made with another decoding" in err) == (2, True), err
    assert not list(tmp_path.glob("*/*results.jsonl"))


def test_samples_of_others_are_scored_without_a_model(needs_sandbox, tmp_path, capsys):
    samples = tmp_path / "theirs.jsonl"
    lines = [{"task_id": name, "completion": text} for name in PROBLEMS for text in (PROBLEMS[name].canonical_solution, "    return 1\n")]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    code, out, _ = evaluate(capsys, "--samples", samples, "--k", 1, 2)
    assert code == 0
    assert "pass@1 0.5000" in out
    assert "pass@2 1.0000" in out
    results = [json.loads(line) for line in (tmp_path / "theirs.jsonl_results.jsonl").read_text().splitlines()]
    assert sorted(one["passed"] for one in results) == [False] * 3 + [True] * 3
    code, _, err = evaluate(capsys, "--samples", samples, "--k", 3)
    assert (code, "pass@3 needs at least 3 samples of every task, there are 2" in err) == (2, True), err


def test_without_bubblewrap_nothing_is_run_unless_told(tmp_path, capsys, monkeypatch):
    samples = tmp_path / "s.jsonl"
    samples.write_text(json.dumps({"task_id": "Tiny/0", "completion": PROBLEMS["Tiny/0"].canonical_solution}) + "\n")
    monkeypatch.setattr("mindformers_codellama.evaluation.sandbox.shutil.which", lambda name: None)
    code, _, err = evaluate(capsys, "--samples", samples, "--limit", 1)
    assert (code, "bwrap is not installed. Fix: install bubblewrap" in err) == (8, True), err
    assert not list(tmp_path.glob("*results*"))
    code, out, err = evaluate(capsys, "--samples", samples, "--limit", 1, "--unsafe", "--wall-seconds", 60)
    assert (code, "pass@1 1.0000" in out) == (0, True), out
    assert "can read, change and delete your files" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "needs a model or --samples, and not both"),
        (["m", "--samples", "s"], 2, "needs a model or --samples, and not both"),
        (["m"], 2, "--output: is missing"),
        (["--samples", "s", "--generate-only"], 2, "--samples: takes no --generate-only"),
        (["m", "--output", "o", "--limit", "0"], 2, "--limit: got 0"),
        (["m", "--output", "o", "--k", "2"], 2, "pass@2 needs at least 2 samples of every task, there are 1"),
        (["m", "--output", "o", "--memory-mib", "0"], 2, "memory_mib: got 0"),
        (["--samples", "no.jsonl"], 4, "no.jsonl: cannot be read"),
        (["codellama_tiny", "--output", "o", "-n", "2", "--generate-only"], 2, "2 greedy samples of a task are all the same"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(tmp_path)
    found, _, err = evaluate(capsys, *words)
    assert (found, says in err) == (code, True), err


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = evaluate(capsys, "no_model", "--output", "o", "--limit", 2, "--dry-run", "--generate-only")
    assert (code, out) == (0, "2 of 3 tasks; nothing is run\n0 samples are there, 2 would be made in o/samples.jsonl\n")
    assert not list(tmp_path.iterdir())


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_other_sections_of_the_page_run(needs_sandbox, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("HumanEval.jsonl.gz").write_bytes(gzip.compress(DATA.read_bytes()))
    task = {"text": "Add.", "code": "def add(a):\n    return a + 1", "test_list": ["assert add(1) == 2"]}
    Path("mbpp.jsonl").write_text("".join(json.dumps(task | {"task_id": number}) + "\n" for number in (2, 11, 12)))
    Path("src").mkdir()
    Path("src/add.py").write_text("".join(f"def add_{number}(a, b):\n    return a + {number} * b\n\n\n" for number in range(9)))
    first, *others = blocks()
    commands = [shlex.split(line) for line in "\n".join([first.splitlines()[0], *others]).splitlines() if line]
    for program, *words in commands:
        assert (program, main(words)) == ("codellama", 0), words
    out = capsys.readouterr().out
    assert "4 tasks in single_line.jsonl" in out
    assert "exact match 0.0000 of 2 lines in 1 files" in out
    assert "| pass@1 | 0 | 0 |  |" in out
    assert sorted(path.name for path in Path("compared").iterdir()) == ["comparison.json", "comparison.md", "comparison.png"]
    assert len(Path("ppl_demo/windows.jsonl").read_text().splitlines()) > 0


def test_the_page_runs(needs_sandbox, tmp_path, monkeypatch, capsys):
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (result.attempted, result.failed) == (2, 0)
    monkeypatch.chdir(tmp_path)
    Path("HumanEval.jsonl.gz").write_bytes(gzip.compress(DATA.read_bytes()))
    block, *_ = blocks()
    *commands, tool = (shlex.split(line) for line in block.splitlines())
    capsys.readouterr()
    for program, *words in commands:
        assert (program, main(words)) == ("codellama", 0), words
    out = capsys.readouterr().out
    assert out.count("pass@1") >= 3
    assert len(Path("drawn/samples.jsonl").read_text().splitlines()) == 4
    assert [path.name for path in Path("later").iterdir() if "results" in path.name] == []
    done = subprocess.run([sys.executable, ROOT / tool[1], *tool[2:]], capture_output=True, text=True, check=True, timeout=60)
    prompts, tasks, names = done.stdout.splitlines()
    assert (eval(prompts), eval(tasks)) == ([one.prompt for one in PROBLEMS.values()], list(PROBLEMS))
    assert eval(names) == ["add", "swap_back", "drop_first"]


def test_a_chat_model_is_asked_for_the_whole_function(reuse, folder, theirs, tokenizer, tmp_path, capsys):
    words = (folder, "--output", tmp_path, "--max-new-tokens", NEW, "--limit", 1, "--generate-only", "--prompt-style", "llama2")
    assert evaluate(capsys, *words)[0] == 0
    problem = PROBLEMS["Tiny/0"]
    question = f"{REQUEST}\n\n```python\n{problem.prompt.rstrip()}\n```"
    prompt = chat_prompt_ids(tokenizer, [{"role": "user", "content": question}], style="llama2")
    text = tokenizer.decode(answers(theirs, prompt, NEW), skip_special_tokens=True)[
        len(tokenizer.decode(prompt, skip_special_tokens=True)) :
    ]
    (sample,) = map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines())
    assert sample["completion"] == text.rstrip() + "\n"
    assert json.loads((tmp_path / "settings.json").read_text())["prompt"].startswith("chat, style llama2")


def test_the_function_of_a_chat_answer_passes(needs_sandbox):
    for problem in PROBLEMS.values():
        answer = f" Here it is:\n```\nimport os\n```\n```python\n{problem.prompt}{problem.canonical_solution}```\nIt works by itself."
        assert judge(problem, chat_completion(problem, answer), open_sandbox(), Limits(wall_seconds=60)).passed, problem.task_id
        assert not judge(problem, chat_completion(problem, "I cannot."), open_sandbox(), Limits(wall_seconds=60)).passed
