"""tools/sdk_test.py: what sdk_config.ini says, as a command; files that say something else are refused."""

import pytest

from mindformers_codellama.cli import sdk_test
from mindformers_codellama.cli.main import reported

MODEL = "[model]\nmodel_path=./llama2-7b_parallel\n"
PRECISION = "[precision]\nwork_dir=./mmlu_test\n"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Run it on a file's text; the words of the command, or what was said instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    found: list[list[str]] = []
    monkeypatch.setattr(sdk_test, "main", lambda words: found.append(words) or 0)

    def run(text, *words):
        (tmp_path / "sdk_config.ini").write_text(text, encoding="utf-8")
        code = reported(lambda: sdk_test.sdk_main(list(words)))
        return found.pop() if found else code

    return run


def test_precision_of_the_guide(ran, caplog):
    words = ran(MODEL + "device=0,1\n" + PRECISION + "batch=1\n", "--task", "precision")
    expected = ["eval", "mmlu", "./llama2-7b_parallel", "--data", "mmlu_test", "--output", "mmlu_test/test_result"]
    assert words == [*expected, "--answer-by", "generation", "--batch-size", "1", "--shots", "5", "--max-new-tokens", "32"]


def test_every_key_of_precision_and_further_flags(ran):
    text = MODEL + "device_ids=2\n" + PRECISION + "mode=ceval ; the Chinese one\nbatch=8\nshot=0\nseq_len_out=4\n"
    words = ran(text, "--task", "precision", "--answer-by", "logit", "--limit", "3")
    assert words[:2] == ["eval", "ceval"]
    assert words[-10:] == ["--batch-size", "8", "--shots", "0", "--max-new-tokens", "4", "--answer-by", "logit", "--limit", "3"]


def test_no_examples_are_allowed_and_the_message_says_so(ran, capsys):
    assert ran(MODEL + PRECISION + "shot=six\n", "--task", "precision") == 2
    assert "shot: got 'six', must be a whole number of at least 0" in capsys.readouterr().err


def test_performance_is_the_sweep_of_powers_of_two_or_the_pairs(ran):
    words = ran(MODEL + "[performance]\nmodel_name=vicuna_13b\nbatch_size=4\nmax_len_exp=10\nmin_len_exp=5\n", "--task", "performance")
    expected = ["performance", "./llama2-7b_parallel", "--batch", "4", "--model-name", "vicuna_13b"]
    assert words == [*expected, "--seqlen-in-range", "[5,11]", "--seqlen-out-range", "[5,11]"]
    words = ran(MODEL + "[performance]\ncase_pair=[[1,2],[2,3]]\nskip_decode=1\n", "--task", "performance")
    assert words[-6:] == ["--set-case-pair", "1", "--seqlen-in-pair", "1,2", "--seqlen-out-pair", "2,3"]


@pytest.mark.parametrize("task", [(), ("--task", "run"), ("--task", "inference")])
def test_without_a_task_questions_are_answered(ran, task):
    words = ran(MODEL, *task)
    assert words[:2] == ["predict", "./llama2-7b_parallel"]
    assert words[-2:] == ["--max-new-tokens", "128"]
    assert sum(word.endswith("Factual answer:") for word in words) == 3


def test_other_ranks_of_torchrun_have_nothing_to_do(ran, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert ran(MODEL + PRECISION, "--task", "precision") == 0
    assert capsys.readouterr().err == "rank 1: nothing to do, rank 0 evaluates alone.\n"


@pytest.mark.parametrize(
    ("text", "task", "says"),
    [
        ("model_path=x\n", "run", "sdk_config.ini: cannot be read: File contains no section headers."),
        ("[model]\nmodel_path=\n", "run", "[model] model_path: is missing"),
        (MODEL + "[precisoin]\n", "run", "[precisoin]: is no section; they are model, precision, performance"),
        (MODEL + "[precision]\nbacth=1\n", "run", "[precision] bacth: is no key. Fix: write batch."),
        (MODEL, "precision", "[precision] work_dir: is missing"),
        (MODEL + PRECISION + "mode=boolq\n", "precision", "[precision] mode: got 'boolq', must be one of mmlu, ceval"),
        (MODEL + PRECISION + "batch=0\n", "precision", "[precision] batch: got '0', must be a whole number of at least 1"),
        (MODEL + "[performance]\nperf_mode=detail\n", "performance", "[performance] perf_mode: got 'detail'"),
        (MODEL + "[performance]\nsave_file_name=x\n", "performance", "[performance] save_file_name: the file is named after model_name"),
        (MODEL + "[performance]\nmin_len_exp=11\n", "performance", "[performance] min_len_exp: is 11, above max_len_exp 10"),
        (MODEL + "[performance]\ncase_pair=1\n", "performance", "[performance] case_pair: got '1', must be pairs of lengths"),
    ],
)
def test_files_that_say_something_else_are_refused(ran, capsys, text, task, says):
    assert ran(text, "--task", task) == 2
    assert says in capsys.readouterr().err


def test_a_missing_file_is_told(ran, capsys):
    assert ran(MODEL, "--config", "other.ini") == 2
    assert "other.ini: cannot be read: No such file or directory. Fix: see python tools/sdk_test.py --help" in capsys.readouterr().err
