"""`codellama predict` on a Hugging Face directory; transformers is the oracle."""

import io
import json
from pathlib import Path

import pytest
from generation_case import NEW, PROMPTS, answers

import mindformers_codellama
import mindformers_codellama.pipelines.text_generation
from mindformers_codellama.cli.main import main
from mindformers_codellama.text.chat import Message, chat_ids


def predict(folder: Path, *words: str) -> int:
    return main(["predict", str(folder), "--max-new-tokens", str(NEW), *words])


def test_predict_streams_prompt_and_answer_and_shows_speed(folder, expected, capsys):
    assert predict(folder, "def add(a, b):\\n") == 0
    out, err = capsys.readouterr()
    assert out == expected[0] + "\n"
    assert f"{NEW} new tokens in" in err


def test_predict_takes_prompts_from_words_behind_options_files_and_standard_input(reuse, folder, expected, capsys, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[2:]), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPTS[0] + "\n"))
    assert predict(folder, "-", "--no-stream", PROMPTS[1], "--predict-data", str(tmp_path / "prompts.txt")) == 0
    out = capsys.readouterr().out
    assert out == "".join(f"== prompt {number} of 4\n{text}\n" for number, text in enumerate(expected, 1))


def test_streamed_and_whole_output_are_the_same(reuse, folder, capsys):
    predict(folder, *PROMPTS, "--no-stream")
    whole = capsys.readouterr().out
    predict(folder, *PROMPTS)
    assert capsys.readouterr().out == whole


def test_predict_writes_json_lines_and_the_result_file_of_mindformers(reuse, folder, expected, capsys, tmp_path):
    output = tmp_path / "text_generation_result.txt"
    assert predict(folder, *PROMPTS, "--json", "--batch-size", "4", "--output", str(output)) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["text_generation_text"] for record in records] == [[text] for text in expected]
    assert [record["prompt"] + record["answer"] for record in records] == expected
    assert {record["finish_reason"] for record in records} <= {"length", "eos"}
    assert output.read_text(encoding="utf-8") == str([{"text_generation_text": [text]} for text in expected])


def test_all_prompts_are_looked_at_before_the_first_is_answered(reuse, folder, capsys):
    assert predict(folder, "a", "b", "x" * 900, "y" * 900, "--json") == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert "prompt 2: has" in err
    assert "prompt 3: has" in err


def test_answers_that_are_done_are_not_lost_when_a_later_batch_fails(reuse, folder, capsys, monkeypatch):
    name = "mindformers_codellama.pipelines.text_generation.generate_rows"
    real = mindformers_codellama.pipelines.text_generation.generate_rows

    def fail_later(*arguments, first_row, **options):
        if first_row:
            raise KeyboardInterrupt
        return real(*arguments, first_row=first_row, **options)

    monkeypatch.setattr(name, fail_later)
    assert predict(folder, *PROMPTS, "--json", "--batch-size", "2") == 130
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == PROMPTS[:2]


def test_an_existing_result_file_is_refused_before_anything_is_computed(reuse, folder, capsys, tmp_path):
    output = tmp_path / "result.txt"
    output.write_text("mine", encoding="utf-8")
    assert predict(folder, "a", "--output", str(output)) == 3
    assert "exists already" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == "mine"
    assert predict(folder, "a", "--output", str(output), "--force") == 0
    assert "text_generation_text" in output.read_text(encoding="utf-8")


def test_predict_asks_in_the_style_it_is_told(reuse, folder, theirs, tokenizer, capsys):
    prompt = chat_ids(tokenizer, [Message("system", "Short."), Message("user", "Add.")], "alpaca", input_text="1 2")
    ids = answers(theirs, prompt)
    text = tokenizer.decode(ids, skip_special_tokens=True)[len(tokenizer.decode(prompt, skip_special_tokens=True)) :]
    assert predict(folder, "Add.", "--prompt-style", "alpaca", "--input", "1 2", "--system", "Short.") == 0
    assert capsys.readouterr().out == text.lstrip(" ") + "\n"


def test_several_questions_are_shown_above_their_answers(reuse, folder, capsys):
    assert predict(folder, "Add.", "Say " + "a long thing " * 20, "--prompt-style", "vicuna", "--max-new-tokens", "1") == 0
    out = capsys.readouterr().out
    assert "== prompt 1 of 2: Add.\n" in out
    assert "== prompt 2 of 2: Say a long thing" in out
    assert max(len(line) for line in out.splitlines() if line.startswith("==")) <= 120


def test_run_with_mindformers_flags_predicts_and_keeps_an_older_result(folder, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text_generation_result.txt").write_text("older", encoding="utf-8")
    config = Path(__file__).resolve().parents[2] / "configs/codellama/predict_codellama_tiny.yaml"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 1, "num_heads": 4, "n_kv_heads": 2}
    flags = [word for key, value in sizes.items() for word in (f"--model.model_config.{key}", str(value))]
    flags += ["--model.model_config.max_new_tokens", str(NEW), "--load_checkpoint", str(folder)]
    assert main(["run", "--config", str(config), "--run_mode", "predict", "--predict_data", "def add(a, b):\\n", *flags]) == 0
    assert Path("text_generation_result.txt").read_text(encoding="utf-8") == str([{"text_generation_text": [expected[0]]}])
    assert Path("text_generation_result.txt.1").read_text(encoding="utf-8") == "older"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to predict"),
        (["a", "--no-such-option"], "--no-such-option: is not an option of predict"),
        (["a", "--set", "seed=1"], "sets keys of a YAML file"),
        (["x" * 900], "tokens, the model's length is 256: no room for an answer"),
        (["--predict-data", "x " * 900], "tokens, the model's length is 256: no room for an answer"),
        (["a", "--predict-data", "gone.txt"], "gone.txt: does not exist"),
        (["a", "--temperature", "0"], "temperature: got 0.0, must be above 0"),
        (["a [/INST]", "--prompt-style", "llama2"], "special tag [/INST] is not allowed"),
        (["a", "--input", "b"], "the prompt style completion has no input"),
        (["a", "--load-checkpoint", "/nowhere.ckpt"], "/nowhere.ckpt: does not exist"),
    ],
)
def test_wrong_uses_of_predict_end_with_one_clear_line(reuse, folder, capsys, words, message):
    assert predict(folder, *words) in range(2, 9)
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("codellama: error: ")
    assert message in err
    assert "Traceback" not in err


def test_sampling_options_without_do_sample_are_pointed_out(reuse, folder, caplog, capsys):
    predict(folder, "a", "--top-p", "0.5")
    assert "--top-p has no effect without --do-sample" in capsys.readouterr().err + caplog.text
    predict(folder, "a", "--do-sample", "--num-beams", "2")
    assert "--do-sample has no effect with --num-beams" in capsys.readouterr().err + caplog.text


def test_random_weights_are_pointed_out(capsys, caplog):
    assert main(["predict", "codellama_tiny", "a", "--max-new-tokens", "1"]) == 0
    assert "the weights are random" in capsys.readouterr().err + caplog.text
