"""`codellama eval mbpp` from prompts to samples, and from samples to a report."""

import json

import pytest
from generation_case import answers

from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.evaluation.ask_mbpp import shots_prompt, zero_shot_prompt
from mindformers_codellama.evaluation.mbpp import examples, read_mbpp
from mindformers_codellama.evaluation.sandbox import open_sandbox
from mindformers_codellama.text.messages import chat_prompt_ids

NEW = 6
NUMBERS = (2, 3, 4, 11, 12)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    tasks = [
        {"task_id": n, "text": f"Add {n}.", "code": f"def add_{n}(a):\n    return a + {n}", "test_list": [f"assert add_{n}(1) == {n + 1}"]}
        for n in NUMBERS
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in tasks))
    return path


def evaluate(capsys, *words) -> tuple[int, str, str]:
    code = main(["eval", "mbpp", *map(str, words)])
    return (code, *capsys.readouterr())


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_model_is_asked_with_three_solved_tasks(reuse, folder, theirs, tokenizer, data, tmp_path, capsys):
    words = (folder, "--data", data, "--output", tmp_path / "o", "--max-new-tokens", NEW, "--generate-only")
    code, _, err = evaluate(capsys, *words, "--shots", 1)
    assert code == 0, err
    problems = read_mbpp(data)
    samples = lines(tmp_path / "o/samples.jsonl")
    assert [one["task_id"] for one in samples] == ["MBPP/11", "MBPP/12"]
    for sample in samples:
        prompt = tokenizer.encode(shots_prompt(problems.tasks[sample["task_id"]], examples(problems, 1)))
        whole = tokenizer.decode(answers(theirs, prompt, NEW), skip_special_tokens=True)
        assert sample["completion"] == whole[len(tokenizer.decode(prompt, skip_special_tokens=True)) :]
    code, _, err = evaluate(capsys, *words)
    assert (code, "made with another data_sha256" not in err, "another prompt and shots" in err) == (2, True, True), err


def test_tasks_of_another_split_do_not_make_other_options_welcome(reuse, folder, data, tmp_path, capsys):
    words = (folder, "--data", data, "--output", tmp_path / "o", "--generate-only", "--shots", 1)
    assert evaluate(capsys, *words, "--max-new-tokens", NEW)[0] == 0
    code, _, err = evaluate(capsys, *words, "--max-new-tokens", NEW + 1, "--split", "all")
    assert (code, "made with another decoding" in err) == (2, True), err
    code, _, err = evaluate(capsys, *words, "--max-new-tokens", NEW + 1, "--split", "prompt")
    assert (code, "made with another decoding" in err) == (2, True), err


def test_a_chat_model_is_asked_for_the_code_between_tags(reuse, folder, theirs, tokenizer, data, tmp_path, capsys):
    words = (folder, "--data", data, "--output", tmp_path / "o", "--max-new-tokens", NEW, "--generate-only", "--shots", 0, "--limit", 1)
    code, _, err = evaluate(capsys, *words, "--prompt-style", "llama2")
    assert code == 0, err
    (sample,) = lines(tmp_path / "o/samples.jsonl")
    question = {"role": "user", "content": zero_shot_prompt(read_mbpp(data).tasks["MBPP/11"])}
    prompt = chat_prompt_ids(tokenizer, [question], style="llama2")
    whole = tokenizer.decode(answers(theirs, prompt, NEW), skip_special_tokens=True)
    assert sample["completion"] == whole[len(tokenizer.decode(prompt, skip_special_tokens=True)) :]


def test_samples_are_scored_by_the_tests_of_the_split(data, tmp_path, capsys):
    try:
        open_sandbox()
    except EnvironmentFault as error:
        pytest.skip(str(error))
    problems = read_mbpp(data)
    samples = tmp_path / "s.jsonl"
    right = problems.tasks["MBPP/11"].canonical_solution
    records = [{"task_id": f"MBPP/{number}", "completion": right} for number in NUMBERS]
    samples.write_text("".join(json.dumps(one) + "\n" for one in records))
    code, out, err = evaluate(capsys, "--samples", samples, "--data", data, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["pass@1"], found["tasks"]) == (0.5, 2)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--shots", "4"], 2, "--shots: got 4, must be from 0 to 3"),
        (["--prompt-style", "llama2"], 2, "goes with --shots 0"),
        (["--split", "train"], 4, "no task of the split train"),
    ],
)
def test_what_cannot_be_done_is_refused(data, capsys, words, code, says):
    found, _, err = evaluate(capsys, "no_model", "--data", data, "--output", data.parent / "o", "--generate-only", *words)
    assert (found, says in err) == (code, True), err
