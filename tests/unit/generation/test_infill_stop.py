"""Where middles end: rules over text alone, token by token, and healed beginnings in the loop."""

import ast
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_decoders import RecurrentDecoder, ScriptedDecoder

import mindformers_codellama
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.infill_stop import block_indent, infill_stop
from mindformers_codellama.generation.loop import Listeners, generate_rows
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.brackets import BracketReader
from mindformers_codellama.text.healing import take_off
from mindformers_codellama.text.infilling import join_parts, prefix_ids
from mindformers_codellama.text.infilling_fit import comment_mark
from mindformers_codellama.text.special import AddedToken

TINY = AutoTokenizer.from_pretrained("codellama_tiny")
EOT = TINY.eot_id
BODY = "def f(a):\n    "


def answered(text: str, rule: AnswerRule, *, ids: list[int] | None = None, **options):
    """(text, pieces heard, reason, new ids) of a model that writes `text` and then ends."""
    heard: list[str] = []
    decoder = ScriptedDecoder(TINY.vocab_size, [TINY.encode_infilling(text) if ids is None else ids], after=EOT)
    config = GenerationConfig(**{"max_new_tokens": 300, "eos_token_ids": (EOT, 2), **options})
    listeners = Listeners(on_text=lambda row, piece: heard.append(piece))
    result = generate_rows(decoder, [[1, TINY.middle_id]], config, tokenizer=TINY, listeners=listeners, rules=[rule])
    assert "".join(heard) == result.texts[0]
    return result.texts[0], heard, result.finish_reasons[0], result.new_ids(0).tolist()


def middle(prefix: str, written: str, suffix: str, until: str = "block", comment: str = "#") -> str:
    """What is kept, the same whether it comes in the model's pieces or character by character."""
    single = [token for char in written for token in TINY.encode_infilling(char)]
    kept = {
        answered(written, AnswerRule(stop=infill_stop(prefix, suffix, until=until, comment=comment), apart=True), ids=ids)[0]
        for ids in (None, single)
    }
    assert len(kept) == 1
    return kept.pop()


@pytest.mark.parametrize(
    ("prefix", "written", "suffix", "kept"),
    [
        # the block of the cursor is left
        (BODY, "return a\n\ndef g():\n    pass", "\n", "return a"),
        (BODY, "return a\n\ndef g():\n    pass", "    b()\n", "return a\n"),
        (BODY, "if a:\n        b()\n    return 1\nx", "\n", "if a:\n        b()\n    return 1"),
        ("def f(a):", "\n    return a\nprint(1)", "\n", "\n    return a"),
        ("def f(a):\n", "    return a\nprint(1)", "", "    return a\n"),
        ("if a:\n\tb()\n\t", "c()\nd()", "\n", "c()"),
        # what is inside brackets, strings and behind closers is no end of the block
        (BODY, "x = [\n1,\n]\n    y", "\n", "x = [\n1,\n]\n    y"),
        (BODY, '"""\ntext\n"""\n    y\nz', "\n", '"""\ntext\n"""\n    y'),
        ("    f(a,\n        ", "b,\n    )\n    c", "\n", "b,\n    )"),
        # a bracket of the suffix
        ("f(", "a, g(b))\nmore", ")\n", "a, g(b)"),
        ("f(g(", "a))", ")\n", "a)"),
        ("f(g(", "a))) ", "\n", "a))"),
        ("x = [\n    ", "1,\n    2,\n]\ny", "\n]\n", "1,\n    2,"),
        ("f(", "')', \")\", 1)", ")\n", "')', \")\", 1"),
        ("f(  # (\n  ", "a  # )\n  )", ")\n", "a  # )\n  "),
        ("f('", "a)b')", ")\n", "a)b'"),
        ("f(", "'\\')')", ")\n", "'\\')'"),
        ("x = ", "a)\n", "\n", "a"),
        ("x = '''", "a)\nb''' + c)", "\n", "a)\nb''' + c"),
        # nothing to stop for
        ("", "a\nb\n\ndef c():\n    pass\n", "", "a\nb\n\ndef c():\n    pass\n"),
        ("class A {\n", "  int a;\n}\n", "", "  int a;\n}\n"),
    ],
)
def test_a_middle_ends_with_its_block_or_at_a_bracket_the_suffix_closes(prefix, written, suffix, kept):
    assert middle(prefix, written, suffix) == kept


def test_the_comment_mark_is_the_languages():
    assert middle("f(", "a // b)", ")", comment="#") == "a // b"
    assert middle("f(", "a // b)", ")", comment="//") == "a // b)"
    assert [comment_mark(name) for name in ("a/B.RS", "q.sql", "x.py", "Makefile", "c.scss", "a.tex")] == ["//", "--", "#", "#", "//", "%"]
    assert middle("f(", "a -- b)", ")", comment=comment_mark("q.sql")) == "a -- b)"


def test_statements_of_real_code_are_never_cut():
    """One to three statements of a block, taken out of files of this package at random; the rule reads them as they were."""
    chance = random.Random(1)
    sources = sorted(Path(mindformers_codellama.__file__).parent.glob("*/*.py"))
    for _ in range(80):
        source = chance.choice(sources).read_text()
        blocks = [node.body for node in ast.walk(ast.parse(source)) if isinstance(getattr(node, "body", None), list) and node.body]
        block = chance.choice(blocks or [[]])
        if not block or block[0].col_offset == 0:
            continue
        first = chance.randrange(len(block))
        last = min(first + chance.randrange(3), len(block) - 1)
        lines = source.split("\n")
        start, end = block[first].lineno - 1, block[last].end_lineno
        prefix = "\n".join([*lines[:start], lines[start][: block[first].col_offset]])
        written = "\n".join(lines[start:end])[block[first].col_offset :]
        rule = infill_stop(prefix, "\n" + "\n".join(lines[end:]), until="block")
        assert {rule.end(written[:size], 0) for size in range(len(written) + 1)} == {-1}, written


def test_until_line_ends_behind_the_first_line_with_text_and_eot_never():
    assert middle("x = ", "1\ny = 2", "\n", until="line") == "1"
    assert middle("def f():", "\n    a\n    b", "\n", until="line") == "\n    a"
    assert middle(BODY, "a\nb)", ")", until="eot") == "a\nb)"
    with pytest.raises(GenerationError, match="until: got 'word'. Fix: write one of eot, line, block"):
        infill_stop("", "", until="word")


def test_indentation_of_the_cursors_block():
    assert block_indent("def f():\n    x\n    ") == 4
    assert block_indent("    if a:") == 5
    assert block_indent("    x = 1") == 4
    assert block_indent("    if a:\n") == 5
    assert block_indent("x = 1\n") == 0
    assert block_indent("\t") == 8


@given(st.text(st.sampled_from("([{}])'\"#\\\n a/"), max_size=40), st.integers(0, 40))
def test_reading_in_two_halves_is_reading_at_once(text, cut):
    """What is read as it comes, waiting where a mark may go on, ends like what is read whole."""
    whole = BracketReader("//").read_all(text)
    parts = BracketReader("//")
    at = 0
    for known in (text[:cut], text):
        while at < len(known) and (known is text or not parts.waits(known, at)):
            parts.read(known, at)
            at += 1
    assert (parts.depth, parts.unmatched, parts.in_text) == (whole.depth, whole.unmatched, whole.in_text)


WRITTEN = st.lists(st.sampled_from(["a", "\n", "    ", "(", ")", "'", '"""', "# ", ":", "\n    ", "\u6f22"]), max_size=15).map("".join)


@given(
    WRITTEN, st.sampled_from([BODY, "f(", "", "x = '"]), st.sampled_from(["", "\n", ")\n", "    b\n"]), st.sampled_from(["line", "block"])
)
def test_what_was_heard_is_the_middle_and_a_beginning_of_what_was_written(written, prefix, suffix, until):
    stop = infill_stop(prefix, suffix, until=until)
    text, _, reason, new = answered(written, AnswerRule(stop=stop, apart=True))
    assert written.startswith(text)
    assert reason == ("eos" if text == written else "stop")
    if reason == "stop":
        assert text.startswith(TINY.decode_infilling(new))


@given(st.lists(st.sampled_from([*"ab \n(", "  ", "\u6f22", "\U0001f600"]), max_size=12).map("".join))
def test_the_text_of_a_middle_is_decode_infilling_with_every_leading_space(written):
    ids = TINY.encode_infilling(written)
    text, _, reason, new = answered("", AnswerRule(apart=True), ids=ids)
    assert text == TINY.decode_infilling(ids) == written
    assert (reason, new) == ("eos", [*ids, EOT])


def test_a_middle_keeps_its_leading_space_where_the_prompt_has_no_text():
    """The plain rule reads it as the beginning of a text, as Hugging Face does, and drops the space."""
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny", added_tokens=[AddedToken("<end of prompt>")])
    decoder = ScriptedDecoder(len(tokenizer), [tokenizer.encode_infilling(" a b")], after=EOT)
    config = GenerationConfig(max_new_tokens=9, eos_token_ids=(EOT,))
    prompts = [[1, tokenizer.convert_tokens_to_ids("<end of prompt>")]]
    assert generate_rows(decoder, prompts, config, tokenizer=tokenizer, rules=[AnswerRule(apart=True)]).texts == [" a b"]
    assert generate_rows(decoder, prompts, config, tokenizer=tokenizer).texts == ["a b"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("prefix", ["impor", "x = sel", "def f():\n    ", "if(", "  ret"])
def test_any_model_begins_with_the_healed_text_and_the_splice_is_exact(prefix, seed):
    """Random weights choose among the allowed tokens; every row has its own beginning, one has none."""
    stay, healed = take_off(TINY, prefix_ids(TINY, prefix))
    assert healed
    decoder = RecurrentDecoder(TINY.vocab_size, max_length=200, seed=seed)
    prompts = [join_parts(TINY, stay, [], suffix_first=True), join_parts(TINY, [], [], suffix_first=False)]
    rules = [AnswerRule(begins=healed, apart=True), AnswerRule(apart=True)]
    config = GenerationConfig(max_new_tokens=20, eos_token_ids=(EOT,), do_sample=True, seed=seed)
    result = generate_rows(decoder, prompts, config, tokenizer=TINY, rules=rules)
    new = result.new_ids(0).tolist()
    assert TINY.decode_infilling([token for token in new if token != EOT]) == healed + result.texts[0]
    before = TINY.decode_pieces(stay)
    assert (before + healed if stay else healed[1:]) == prefix
    alone = generate_rows(decoder, prompts[1:], config, tokenizer=TINY, rules=rules[1:], first_row=1)
    assert np.array_equal(alone.ids[0], result.ids[1]), "a row with a beginning does not disturb the others"


def test_without_the_rule_the_same_model_does_not_begin_so():
    stay, healed = take_off(TINY, prefix_ids(TINY, "impor"))
    prompt = join_parts(TINY, stay, [], suffix_first=True)
    config = GenerationConfig(max_new_tokens=5, eos_token_ids=(EOT,))
    free = generate_rows(RecurrentDecoder(TINY.vocab_size), [prompt], config, tokenizer=TINY, rules=[AnswerRule(apart=True)])
    assert not free.texts[0].startswith(healed)


def test_beam_search_takes_no_rules():
    config = GenerationConfig(num_beams=2)
    with pytest.raises(GenerationError, match="beam search takes no rules"):
        generate_rows(RecurrentDecoder(TINY.vocab_size), [[1]], config, tokenizer=TINY, rules=[AnswerRule(apart=True)])
