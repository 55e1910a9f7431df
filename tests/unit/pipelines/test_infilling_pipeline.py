"""`InfillingPipeline` over scripted decoders: the ids that are fed, the ends, the splice. No network and no weights."""

import dataclasses
import logging

import numpy as np
import pytest

from mindformers_codellama import infilling_prompt_ids
from mindformers_codellama.config.families import model_facts
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import ConfigError, GenerationError, TokenizerError
from mindformers_codellama.generation.loop import Listeners
from mindformers_codellama.pipelines.generating import CausalLM
from mindformers_codellama.pipelines.infilling import InfillingPipeline, InfillOptions
from mindformers_codellama.pipelines.ranks import ONE
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.holes import Hole

TINY = AutoTokenizer.from_pretrained("codellama_tiny")


class Writer:
    """Answers the k-th prompt it reads with the k-th text, then `<EOT>`; remembers the prompts."""

    def __init__(self, texts: list[str], max_length: int):
        self.vocab_size, self.max_length = TINY.vocab_size, max_length
        self.waiting = [[*TINY.encode_infilling(text), TINY.eot_id] for text in texts]
        self.prompts: list[list[int]] = []

    def prefill(self, tokens_BT, lengths_B):
        self.prompts += [row[:length].tolist() for row, length in zip(tokens_BT, lengths_B, strict=True)]
        self.rows, self.waiting = self.waiting[: len(lengths_B)], self.waiting[len(lengths_B) :]
        self.place = -1
        return self.step(None)

    def step(self, tokens_B):
        self.place += 1
        logits_BV = np.zeros((len(self.rows), self.vocab_size), np.float32)
        for row, ids in enumerate(self.rows):
            logits_BV[row, ids[min(self.place, len(ids) - 1)]] = 9
        return logits_BV

    def reorder(self, rows_B):
        pass


class Model(CausalLM):
    """The tiny model's sizes, a writer in place of its weights."""

    def __init__(self, *texts: str, max_length: int = 256):
        self.config = model_facts("codellama_tiny").config
        self.generation = GenerationConfig(max_new_tokens=5000)
        self.ranks = ONE
        self.writer = Writer(list(texts), max_length)

    def decoder(self, *, use_past):
        return self.writer


PLAIN = {"heal": False, "until": "eot"}


@pytest.mark.parametrize("suffix_first", [False, True])
def test_infill_feeds_the_exact_ids_and_splices_exactly(suffix_first):
    model = Model("  return a + b")
    prefix, suffix = "def add(a, b):\n  ", "\n\nprint(1)\n"
    middle = model.infill(prefix, suffix, tokenizer=TINY, suffix_first=suffix_first, heal=False, until="eot")
    assert middle == "  return a + b", "every leading space stays"
    assert model.writer.prompts == [infilling_prompt_ids(TINY, prefix, suffix, suffix_first=suffix_first)]


def test_the_order_is_chosen_by_the_cursor():
    model = Model("x", "x")
    model.infill("a = ", "\nb", tokenizer=TINY, heal=False)
    model.infill("a = (", ")\nb", tokenizer=TINY, heal=False)
    wanted = [("a = ", "\nb", True), ("a = (", ")\nb", False)]
    assert model.writer.prompts == [infilling_prompt_ids(TINY, p, s, suffix_first=first) for p, s, first in wanted]


def test_texts_with_marks_are_filled_from_the_first_to_the_last():
    model = Model("a, b", "other", "a + b")
    pipe = InfillingPipeline(model, TINY, batch_size=2)
    found = pipe(["def f(<FILL>):\n    return <FILL>\n", "x<FILL>"], suffix_first=False, **PLAIN)
    assert found[0] == {
        "infilling_text": "def f(a, b):\n    return a + b\n",
        "middles": ["a, b", "a + b"],
        "finish_reasons": ["eos", "eos"],
    }
    assert found[1]["infilling_text"] == "xother"
    fed = [("def f(", "):\n    return \n"), ("x", ""), ("def f(a, b):\n    return ", "\n")]
    assert model.writer.prompts == [infilling_prompt_ids(TINY, *parts) for parts in fed]
    assert pipe.stats.prompt_tokens == sum(map(len, model.writer.prompts))


def test_a_character_cut_by_the_longest_answer_leaves_no_mark_in_the_text():
    ids = TINY.encode_infilling("a\U0001f98a")  # one piece, then four bytes
    for count, wanted in ((len(ids) - 1, "a"), (len(ids), "a\U0001f98a")):
        assert Model("a\U0001f98a").infill("x = '", "'", tokenizer=TINY, max_new_tokens=count, **PLAIN) == wanted


def test_every_form_of_input_is_taken():
    for given in ("a<FILL>b", ("a", "b"), {"prefix": "a", "suffix": "b"}, Hole("a", "b"), ["a<FILL>b"], [["a", "b"]]):
        assert InfillingPipeline(Model("-"), TINY)(given, **PLAIN)[0]["infilling_text"] == "a-b"
    assert InfillingPipeline(Model("-"), TINY)("a@@b", mark="@@", **PLAIN)[0]["middles"] == ["-"]
    assert InfillingPipeline(Model(), TINY)([]) == []


def test_cr_lf_texts_get_cr_lf_and_the_model_sees_lf():
    model = Model("b\nc")
    text = InfillingPipeline(model, TINY)("a\r\n<FILL>\r\nd", suffix_first=False, **PLAIN)[0]["infilling_text"]
    assert text == "a\r\nb\r\nc\r\nd"
    assert model.writer.prompts == [infilling_prompt_ids(TINY, "a\n", "\nd")]


def test_cr_lf_of_the_model_itself_is_no_more_than_a_line_end():
    for text, wanted in (("a\r\n<FILL>\r\n", "a\r\nb\r\nc\r\n"), ("a\n<FILL>\n", "a\nb\nc\n")):
        assert InfillingPipeline(Model("b\r\nc"), TINY)(text, **PLAIN)[0]["infilling_text"] == wanted


def test_marks_inside_line_ends_are_filled_before_them():
    model = Model("x", "y")
    found = InfillingPipeline(model, TINY)("a\r<FILL>\nb\r<FILL>\nc", suffix_first=False, **PLAIN)
    assert found[0]["infilling_text"] == "ax\r\nby\r\nc"
    assert model.writer.prompts[1] == infilling_prompt_ids(TINY, "ax\nb", "\nc")


def test_a_healed_middle_begins_at_the_cursor():
    model = Model(" import os")
    heard: list[str] = []
    pipe = InfillingPipeline(model, TINY)
    [one], _ = pipe.run(
        [Hole("impor", "\n")], InfillOptions(), pipe.generation, listeners=Listeners(on_text=lambda _, text: heard.append(text))
    )
    assert (one.prompt.healed, one.middle, one.text) == (" impor", "t os", "import os\n")
    assert "".join(heard) == "t os"
    assert TINY.decode_infilling(one.new_ids[:-1]) == " import os"


def test_a_long_file_is_trimmed_to_leave_room_for_the_middle(caplog):
    model = Model("x" * 10, max_length=100)
    with caplog.at_level(logging.INFO):
        InfillingPipeline(model, TINY, max_new_tokens=30)([("a = 1\n" * 100, "b = 2\n" * 100)], **PLAIN)
    assert len(model.writer.prompts[0]) <= 70
    assert "1 of 1 cursors: the model sees the part of the text nearest to it" in caplog.text


def test_the_length_of_a_middle_is_its_own_and_not_the_models():
    model = Model("x\n" * 400, max_length=256)
    found = InfillingPipeline(model, TINY)("a<FILL>b", **PLAIN)
    assert found[0]["finish_reasons"] == ["length"]
    assert TINY.encode_infilling(found[0]["middles"][0]) == TINY.encode_infilling("x\n" * 400)[:128]


def test_other_files_and_their_language_reach_the_prompt():
    model = Model("x")
    pipe = InfillingPipeline(model, TINY)
    middle = Model("a // )").infill("f(", ")", tokenizer=TINY, context=[("b.js", "let c")], heal=False)
    assert middle == "a // ", "without a path # is the comment mark, so the bracket is one"
    pipe(("f(", ")"), context=[("b.js", "let c")], path="a.js")
    assert "// b.js\nlet c\n" in TINY.decode_pieces(model.writer.prompts[0])


def test_a_cancelled_middle_ends_the_request():
    asked = iter([False, False, True])
    pipe = InfillingPipeline(Model("one two three four"), TINY)
    listeners = Listeners(should_stop=lambda: next(asked))
    [found] = pipe.fill([["a", "b", "c"]], InfillOptions(**PLAIN), pipe.generation, listeners=listeners)
    assert [one.finish_reason for one in found] == ["cancelled"]


@pytest.mark.parametrize("name", ["codellama_34b", "codellama_7b_python"])
def test_a_model_that_cannot_infill_is_refused_by_name_and_by_sizes(name):
    model = Model()
    with pytest.raises(GenerationError, match=f"{name}: was not trained to fill in the middle.*codellama_7b_instruct"):
        InfillingPipeline(model, TINY, name=name)
    model.config = model_facts(name).config
    with pytest.raises(GenerationError, match="was not trained to fill in the middle"):
        model.infill("a", "b", tokenizer=TINY)
    model.config = dataclasses.replace(model_facts("codellama_tiny").config, vocab_size=2046)
    with pytest.raises(GenerationError, match="infilling piece 2047 .* outside the model's vocabulary of 2046"):
        model.infill("a", "b", tokenizer=TINY)


@pytest.mark.parametrize(
    ("kind", "words", "wrong"),
    [
        (GenerationError, "infilling needs a tokenizer", lambda: Model().infill("a", "b")),
        (GenerationError, "max_length: counts the prompt.*max_new_tokens", lambda: Model().infill("a", "b", tokenizer=TINY, max_length=9)),
        (GenerationError, "infilling has no beam search", lambda: Model().infill("a", "b", tokenizer=TINY, num_beams=2)),
        (GenerationError, "did you mean max_new_tokens", lambda: Model().infill("a", "b", tokenizer=TINY, max_new_token=2)),
        (
            GenerationError,
            "max_new_tokens: got 256, the model has 256 positions",
            lambda: Model().infill("a", "b", tokenizer=TINY, max_new_tokens=256),
        ),
        (GenerationError, "until: got 'x'", lambda: Model().infill("a", "b", tokenizer=TINY, until="x")),
        (GenerationError, "context: must be pairs", lambda: Model().infill("a", "b", tokenizer=TINY, context=["a.py"])),
        (GenerationError, "suffix_first: got 'yes'", lambda: InfillingPipeline(Model(), TINY, suffix_first="yes")),
        (GenerationError, "heal: got None", lambda: Model().infill("a", "b", tokenizer=TINY, heal=None)),
        (GenerationError, "path: got 3", lambda: Model().infill("a", "b", tokenizer=TINY, path=3)),
        (GenerationError, "batch_size: got 0", lambda: InfillingPipeline(Model(), TINY)("a<FILL>", batch_size=0)),
        (TokenizerError, "suffix: must be a text, got NoneType", lambda: Model().infill("a", None, tokenizer=TINY)),
        (GenerationError, "must be a text, or a prefix and a suffix, got NoneType", lambda: InfillingPipeline(Model(), TINY)(None)),
        (GenerationError, "has no suffix", lambda: InfillingPipeline(Model(), TINY)({"prefix": "a"})),
        (ConfigError, "mark: must be a text, got 3", lambda: InfillingPipeline(Model(), TINY)("a", mark=3)),
        (GenerationError, "must be a text, or a prefix and a suffix, got int", lambda: InfillingPipeline(Model(), TINY)([3])),
        (GenerationError, "has the key 'sufix'", lambda: InfillingPipeline(Model(), TINY)({"prefix": "a", "sufix": "b"})),
        (ConfigError, "text: has no mark <FILL>", lambda: InfillingPipeline(Model(), TINY)("a")),
    ],
)
def test_what_cannot_be_says_what_to_write(kind, words, wrong):
    with pytest.raises(kind, match=words):
        wrong()
