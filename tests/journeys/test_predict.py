"""`pipeline(...)`, `codellama predict` and `codellama chat` on a Hugging Face directory; transformers is the oracle."""

import functools
import io
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import mindformers_codellama
import mindformers_codellama.pipelines.text_generation
from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import CodeLlamaError, ConfigError, GenerationError, TokenizerError
from mindformers_codellama.pipelines.open_model import open_model
from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer
from mindformers_codellama.text.chat import Message, chat_ids

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPTS = ["def add(a, b):\n", "x = [1, 2", "import os", "class Tree:"]
NEW = 14


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained("codellama_tiny")


@pytest.fixture(scope="module")
def theirs(tokenizer):
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, **sizes, max_position_embeddings=256, rope_theta=1e6, initializer_range=0.3, pad_token_id=0
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "tiny-hf"
    theirs.save_pretrained(path)
    shutil.copy(shipped_tokenizer() / "tokenizer.model", path)
    return path


def answers(theirs, ids: list[int], new: int = NEW, **options) -> list[int]:
    out = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=new, do_sample=False, **options)
    return out[0].tolist()


@pytest.fixture(scope="module")
def expected(theirs, tokenizer):
    """Prompt and greedy answer by transformers, as text."""
    return [tokenizer.decode(answers(theirs, tokenizer.encode(prompt)), skip_special_tokens=True) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def pipe(folder):
    return mindformers_codellama.pipeline("text_generation", model=folder, batch_size=3, max_new_tokens=NEW)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_pipeline_gives_a_dictionary_per_prompt_in_order_whatever_the_batch(pipe, expected, batch_size):
    assert pipe(PROMPTS, batch_size=batch_size) == [{"text_generation_text": [text]} for text in expected]


def test_a_single_prompt_gives_a_list_of_one_and_no_prompts_none(pipe, expected):
    assert pipe(PROMPTS[0]) == [{"text_generation_text": [expected[0]]}]
    assert pipe([]) == []


def test_pipeline_without_a_cache_gives_the_same(pipe, expected):
    assert pipe(PROMPTS[:1], use_past=False)[0]["text_generation_text"] == [expected[0]]


def test_beams_and_penalty_give_what_transformers_gives(pipe, theirs, tokenizer):
    ids = answers(theirs, tokenizer.encode(PROMPTS[0]), num_beams=3, repetition_penalty=1.2)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert pipe(PROMPTS[0], num_beams=3, repetition_penalty=1.2)[0]["text_generation_text"] == [text]


def test_sampled_text_does_not_depend_on_the_batch_size(pipe):
    options = {"do_sample": True, "top_k": 0, "temperature": 1.5, "seed": 9}
    whole = pipe(PROMPTS, batch_size=4, **options)
    assert pipe(PROMPTS, batch_size=1, **options) == whole
    assert pipe(PROMPTS, batch_size=4, **{**options, "seed": 10}) != whole


def test_stop_strings_and_streams(pipe, expected):
    heard: dict[int, str] = {}

    def on_text(row, piece):
        heard[row] = heard.get(row, "") + piece

    stop = expected[1][len(PROMPTS[1]) + 5 : len(PROMPTS[1]) + 8]
    [answer] = pipe(PROMPTS[1], stop=stop, on_text=on_text)[0]["text_generation_text"]
    assert answer == PROMPTS[1] + expected[1][len(PROMPTS[1]) :].split(stop)[0]
    assert heard[0] == answer[len(PROMPTS[1]) :]


def test_model_generate_takes_stop_strings_with_a_tokenizer(pipe, tokenizer, expected):
    stop = expected[1][len(PROMPTS[1]) + 5 : len(PROMPTS[1]) + 8]
    ids = pipe.model.generate(tokenizer(PROMPTS[1])["input_ids"], stop=stop, tokenizer=tokenizer, max_new_tokens=NEW)[0]
    assert stop not in tokenizer.decode(ids, skip_special_tokens=True)[len(PROMPTS[1]) :]


def test_special_tokens_are_shown_on_request(pipe, expected):
    assert pipe(PROMPTS[0], skip_special_tokens=False)[0]["text_generation_text"][0].startswith("<s>")
    assert not pipe(PROMPTS[0], skip_special_tokens=False, add_special_tokens=False)[0]["text_generation_text"][0].startswith("<s>")


def test_wrong_uses_of_pipeline_say_what_to_write(pipe, folder, tmp_path):
    cases = [
        (
            ConfigError,
            r"task: 'text-generation' is not known. Fix: did you mean text_generation",
            lambda: call("text-generation", pipe.model),
        ),
        (ConfigError, r"'mslite' is not available: MindSpore Lite", lambda: call("text_generation", pipe.model, backend="mslite")),
        (GenerationError, "needs a tokenizer", lambda: call("text_generation", pipe.model)),
        (GenerationError, "needs a model", lambda: call("text_generation")),
        (ConfigError, "is no file, no directory and no model name", lambda: call("text_generation", tmp_path / "none")),
        (GenerationError, "did you mean max_new_tokens", lambda: pipe("a", max_new_token=3)),
        (GenerationError, "prompt 1: must be text, got int", lambda: pipe(["a", 3])),
        (GenerationError, "batch_size: got 0", lambda: call("text_generation", pipe.model, pipe.tokenizer, batch_size=0)),
    ]
    for kind, words, wrong in cases:
        with pytest.raises(kind, match=words):
            wrong()


def call(*arguments, **options):
    return mindformers_codellama.pipeline(*arguments, **options)


def test_a_tokenizer_larger_than_the_model_is_refused_naming_both(theirs, tmp_path):
    config = transformers.LlamaConfig(**{**theirs.config.to_dict(), "vocab_size": 500})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"has \d+ pieces, the model's vocabulary is 500: tokenizer and model disagree"):
        call("text_generation", tmp_path, "codellama_tiny")


@pytest.fixture
def reuse(folder, monkeypatch):
    """Commands of a test get a model whose graphs are compiled already."""
    name = "mindformers_codellama.pipelines.open_model.open_model"
    monkeypatch.setattr(name, lambda *_, **options: _opened(folder) if not options["load_checkpoint"] else open_model(folder, **options))


@functools.lru_cache(maxsize=1)
def _opened(folder: Path):
    return open_model(folder)


# -- codellama predict ------------------------------------------------------------------------------------------------


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


# -- codellama chat ---------------------------------------------------------------------------------------------------


def chat(folder: Path, monkeypatch, capsys, lines: list[str], *words: str) -> tuple[str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    assert main(["chat", str(folder), "--max-new-tokens", "6", *words]) == 0
    return capsys.readouterr()


def test_chat_remembers_resets_and_ends(reuse, folder, theirs, tokenizer, capsys, monkeypatch):
    def answer(*turns: str) -> str:
        messages = [Message(("user", "assistant")[place % 2], text) for place, text in enumerate(turns)]
        prompt = chat_ids(tokenizer, messages, "vicuna")
        ids = answers(theirs, prompt, 6)
        return tokenizer.decode(ids, skip_special_tokens=True)[len(tokenizer.decode(prompt, skip_special_tokens=True)) :]

    first = answer("Hello")
    second = answer("Hello", first.strip(), "two\nlines")
    third = answer("two\nlines")
    lines = ["Hello", "two\\", "lines", "/reset", "", "two\\", "lines", "/help", "/no", "/exit", "never"]
    out, err = chat(folder, monkeypatch, capsys, lines, "--prompt-style", "vicuna")
    assert out == "".join(text.lstrip(" ") + "\n" for text in (first, second, third))
    assert "forgotten." in err
    assert "unknown command /no" in err


def test_chat_shows_an_error_and_goes_on(reuse, folder, capsys, monkeypatch):
    out, err = chat(folder, monkeypatch, capsys, ["bad [INST]", "/system S", "good"], "--prompt-style", "llama2", "--stats")
    assert "error: message: special tag [INST] is not allowed" in err
    assert "system text set." in err
    assert "6 new tokens" in err
    assert len(out.splitlines()) >= 1


def test_chat_refuses_a_line_that_is_no_text_and_goes_on(reuse, folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"he\xffllo\nimport os\n"), encoding="utf-8"))
    assert main(["chat", str(folder), "--max-new-tokens", "3"]) == 0
    out, err = capsys.readouterr()
    assert "lone surrogate" in err
    assert len(out.splitlines()) >= 1


def test_chat_with_a_model_that_only_continues_says_so(reuse, folder, capsys, monkeypatch):
    assert "every line stands alone" in chat(folder, monkeypatch, capsys, ["a"])[1]


def test_ctrl_c_stops_the_answer_and_a_second_one_the_program():
    before = signal.getsignal(signal.SIGINT)
    with stopping_on_interrupt() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_every_end_id_of_a_hugging_face_directory_ends_an_answer(folder, theirs, tokenizer, tmp_path):
    prompt = tokenizer.encode(PROMPTS[0])
    ids = answers(theirs, prompt)
    ends = [2, ids[len(prompt) + 4]]
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    model = mindformers_codellama.LlamaForCausalLM.from_pretrained(tmp_path / "hf")
    assert model.generate(prompt, max_new_tokens=NEW)[0].tolist() == answers(theirs, prompt, eos_token_id=ends)
    assert open_model(tmp_path / "hf").generation.eos_token_ids == tuple(ends)


def test_errors_of_opening_are_ours(tmp_path):
    (tmp_path / "weights.txt").write_text("no", encoding="utf-8")
    for source in (tmp_path, tmp_path / "weights.txt"):
        with pytest.raises(CodeLlamaError):
            call("text_generation", source)


@pytest.mark.parametrize("use_past", [True, False])
def test_a_row_that_fills_the_model_does_not_disturb_a_shorter_one(folder, theirs, tokenizer, use_past):
    opened = open_model(folder, seq_length=40)
    long, short = tokenizer.encode("a = 1\n" * 8)[:38], tokenizer.encode("class Tree:")
    rows = opened.model.generate([long, short], max_new_tokens=30, use_past=use_past, eos_token_id=[])
    assert [len(row) for row in rows] == [40, len(short) + 30]
    for row, prompt in zip(rows, (long, short), strict=True):
        assert row.tolist() == answers(theirs, prompt, len(row) - len(prompt), eos_token_id=None)
