"""`pipeline(...)` and `LlamaForCausalLM` on a Hugging Face directory; transformers is the oracle."""

import dataclasses
import json
import shutil

import pytest
from generation_case import NEW, PROMPTS, answers

import mindformers_codellama
from mindformers_codellama.errors import CodeLlamaError, ConfigError, GenerationError, TokenizerError
from mindformers_codellama.pipelines.open_model import open_model

transformers = pytest.importorskip("transformers")


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
        (ConfigError, r"'mlite' is not available. Fix: did you mean mslite", lambda: call("text_generation", pipe.model, backend="mlite")),
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


@pytest.mark.parametrize(("method", "rope"), [("PI", {"rope_type": "linear", "factor": 4.0}), ("NTK", {"rope_type": "default"})])
def test_extended_models_answer_beyond_their_trained_positions_as_transformers_does(folder, tokenizer, method, rope):
    trained = open_model(folder).model.config
    config = dataclasses.replace(trained, extend_method=method, scaling_factor=4.0, seq_length=400)
    stated = transformers.AutoConfig.from_pretrained(folder)
    stated.rope_parameters = {"rope_theta": trained.rope_theta * (4 if method == "NTK" else 1), **rope}
    stated.max_position_embeddings = 1024
    other = transformers.AutoModelForCausalLM.from_pretrained(folder, config=stated).eval()
    long = tokenizer.encode("def add(a, b):\n    return a + b\n\n" * 40)[:300]
    assert trained.max_position < len(long)
    model = mindformers_codellama.LlamaForCausalLM(config, checkpoint=folder)
    wanted = [answers(other, prompt, new=8, eos_token_id=None) for prompt in (long, long[:5])]
    for use_past in (True, False):
        found = model.generate([long, long[:5]], max_new_tokens=8, eos_token_id=[], use_past=use_past)
        assert [row.tolist() for row in found] == wanted
    plain = mindformers_codellama.LlamaForCausalLM(dataclasses.replace(config, extend_method="None", scaling_factor=1.0), checkpoint=folder)
    assert plain.generate(long, max_new_tokens=8, eos_token_id=[])[0].tolist() != wanted[0]
