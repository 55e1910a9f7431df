"""The calls to MindSpore Lite, against the strict fake in tests/lite_fake, and generation on top of them.

The oracle of every logit is `toy_logits` of the whole row: it depends on each id and its place.
"""

import sys

import numpy as np
import pytest
from lite_case import SALT, SEQ, VOCAB, rank_table, right_padded, write_export

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import CodeLlamaError, EnvironmentFault, GenerationError
from mindformers_codellama.generation.loop import generate
from mindformers_codellama.mindir.decoder import MindIRDecoder, any_size
from mindformers_codellama.mindir.lite_engine import LiteEngine, LitePlace
from mindformers_codellama.mindir.lite_ini import read_pair
from mindformers_codellama.mindir.protocol import FULL, INC

PROMPTS = [[1, 7, 8, 9, 10, 11, 12], [1, 5], [1, 3, 3]]


def place(folder, *, device=0, rank=0, full="[ascend_context]\nprovider=ge\n", inc=""):
    (folder / "lite.ini").write_text(full)
    (folder / "inc.ini").write_text(inc or full)
    return LitePlace(device_id=device, rank_id=rank, ini=read_pair(f"{folder / 'lite.ini'},{folder / 'inc.ini'}"))


def opened(folder, **options):
    engine = LiteEngine(folder, place(folder, **options))
    engine.load()
    return engine


def greedy(fake, prompt, count):
    """Most likely ids one after the other, from the formula alone."""
    row = list(prompt)
    for _ in range(count):
        row.append(int(fake.toy_logits(row, VOCAB, SALT).argmax()))
        if row[-1] == 2:
            break
    return row


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_generation_gives_what_the_formula_says(fake_lite, tmp_path, rows, paged):
    write_export(tmp_path, batch=3, paged=paged)
    decoder = MindIRDecoder(opened(tmp_path))
    config = GenerationConfig(max_new_tokens=40, eos_token_ids=(2,), use_past=True)
    for prompts in (PROMPTS[:rows], PROMPTS[-rows:]):  # the second batch finds no trace of the first
        answers = generate(decoder, prompts, config)
        assert [answer.tolist() for answer in answers] == [greedy(fake_lite, prompt, 40) for prompt in prompts]


def test_logits_are_kept_when_the_next_call_overwrites_its_memory(fake_lite, tmp_path):
    write_export(tmp_path)
    decoder = MindIRDecoder(opened(tmp_path))
    decoder.prefill(*right_padded([PROMPTS[0]]))
    first = decoder.step(np.array([4], np.int32))
    before = first.copy()
    decoder.step(np.array([5], np.int32))
    assert np.array_equal(first, before)


def test_blocks_go_to_the_rows_that_need_them(fake_lite, tmp_path):
    write_export(tmp_path, batch=2, paged=True, blocks=1 + 9)
    decoder = MindIRDecoder(opened(tmp_path))
    long, short = [1] * 120, [1, 6]
    for prompts in ([long, short], [short, long]):
        logits = decoder.prefill(*right_padded(prompts))
        assert np.array_equal(logits, [fake_lite.toy_logits(prompt, VOCAB, SALT) for prompt in prompts])
    with pytest.raises(GenerationError, match="its 9 blocks of 16 positions are all in use"):
        decoder.prefill(*right_padded([long, long]))


def test_gears_choose_the_shapes_of_dynamic_graphs(fake_lite, tmp_path):
    write_export(tmp_path, batch=4, dynamic=True)
    shape = "ge.inputShape=batch_index:-1;batch_valid_length:-1;tokens:-1,1;zactivate_len:-1\n"
    inc = f"[ge_graph_options]\n{shape}ge.dynamicDims=1,1,1,16;4,4,4,16;4,4,4,128\nge.dynamicNodeType=1\n"
    engine = opened(tmp_path, inc=inc)
    assert engine.gears[FULL] is None
    decoder = MindIRDecoder(engine, fit_inc=engine.gears[INC].fit)
    config = GenerationConfig(max_new_tokens=30, eos_token_ids=(2,), use_past=True)  # past 16 positions: rows go from 1 or 3 to 4
    for prompts in (PROMPTS, PROMPTS[:1]):
        answers = generate(decoder, prompts, config)
        assert [answer.tolist() for answer in answers] == [greedy(fake_lite, prompt, 30) for prompt in prompts]
    without = MindIRDecoder(engine)
    without.prefill(*right_padded(PROMPTS))
    with pytest.raises(GenerationError, match="3 rows of 64 positions are no gear"):
        without.step(np.array([4, 4, 4], np.int32))
    assert any_size(3, 65) == (3, 128)


def test_several_ranks_name_their_rank_table(fake_lite, tmp_path):
    write_export(tmp_path, ranks=2)
    table = rank_table(tmp_path / "table.json", 2, first_device=4)
    full = f"[ascend_context]\nprovider=ge\nrank_table_file={table}\n"
    engine = opened(tmp_path, rank=1, device=5, full=full)
    assert engine.config == {"ascend_context": {"rank_table_file": str(table)}}
    for options, said in (
        ({"rank": 1, "device": 4, "full": full}, "gives rank 1 the device 5"),
        ({"rank": 1, "device": 5}, "no rank table is named, but the graphs are for 2 ranks"),
        ({"rank": 2, "device": 5, "full": full}, "has no full graph of rank 2"),
        ({"rank": 0, "device": 4096, "full": full}, "must be in"),
    ):
        with pytest.raises(CodeLlamaError, match=said):
            opened(tmp_path, **options)
    rank_table(table, 4, first_device=4)
    with pytest.raises(CodeLlamaError, match="has 4 ranks; the graphs are for 2"):
        opened(tmp_path, rank=1, device=5, full=full)


def test_graphs_that_lite_cannot_run_are_refused_before_it_is_asked(tmp_path):
    for name, options, said in (
        ("cpu", {"ranks": 2, "target": "cpu"}, "export with --target ascend"),
        ("secret", {"encryption": "AES-GCM"}, "is of encrypted graphs, and no key was given"),
    ):
        write_export(tmp_path / name, **options)
        with pytest.raises(CodeLlamaError, match=said):
            opened(tmp_path / name)
    write_export(tmp_path / "open")
    key = tmp_path / "key"
    key.write_bytes(b"0" * 16)
    with pytest.raises(CodeLlamaError, match="are not encrypted, but a key was given"):
        LiteEngine(tmp_path / "open", LitePlace(), key_file=key)
    single = write_export(tmp_path / "single", single=True)
    assert single.single
    with pytest.raises(CodeLlamaError, match="names two files, but this export has a single graph"):
        opened(tmp_path / "single")
    gears = "[ge_graph_options]\nge.inputShape=tokens:-1,1\nge.dynamicDims=1;2\nge.dynamicNodeType=1\n"
    with pytest.raises(CodeLlamaError, match="is for graphs of dynamic shapes"):
        opened(tmp_path / "open", inc=gears)


def test_an_absent_package_is_said_so(tmp_path):
    assert "mindspore_lite" not in sys.modules
    write_export(tmp_path)
    with pytest.raises(EnvironmentFault, match="mindspore_lite: is not installed; the engine lite cannot run without it"):
        opened(tmp_path)


def test_files_that_are_not_those_of_the_manifest_are_refused(fake_lite, tmp_path):
    write_export(tmp_path)
    write_export(tmp_path / "other", salt=5)
    for change, said in (("damaged", "sha256 is not the one"), ("short", "was cut short"), ("missing", "is missing")):
        graph = tmp_path / "mindir_inc_checkpoint" / "rank_0.mindir"
        kept = graph.read_bytes()
        if change == "damaged":  # the increment graph of another model, of the same length
            graph.write_bytes(kept.replace(b'"salt": 77', b'"salt": 78'))
        elif change == "short":
            graph.write_bytes(kept[:-1])
        else:
            graph.unlink()
        with pytest.raises(CodeLlamaError, match=said) as caught:
            opened(tmp_path)
        assert str(graph) in str(caught.value)
        graph.write_bytes(kept)


def test_inputs_that_are_not_those_of_the_graph_never_reach_it(fake_lite, tmp_path):
    write_export(tmp_path, batch=2)
    engine = opened(tmp_path)
    good = {
        "input_ids": np.zeros((2, SEQ), np.int32),
        "batch_valid_length": np.array([3, 4], np.int32),
        "batch_index": np.arange(2),
        "zactivate_len": np.zeros(SEQ, np.int64),
    }
    with pytest.raises(GenerationError, match="no prompt was read"):
        engine.decode(good)
    assert engine.prefill(good).shape == (2, VOCAB)
    for name, value, said in (
        ("input_ids", np.zeros((2, SEQ), np.int64), "int64"),
        ("input_ids", np.zeros((1, SEQ), np.int32), r"got int32 \(1, 128\)"),
        ("input_ids", np.zeros((2, SEQ - 1), np.int32), r"got int32 \(2, 127\)"),
        ("input_ids", np.full((2, SEQ), VOCAB, np.int32), "outside the model's vocabulary"),
        ("batch_valid_length", np.array([0, 4], np.int32), "must lie in 1 to"),
        ("batch_index", np.array([1, 0]), "in order"),
    ):
        with pytest.raises(CodeLlamaError, match=said):
            engine.prefill({**good, name: value})
    with pytest.raises(GenerationError, match="takes input_ids, batch_valid_length, batch_index, zactivate_len"):
        engine.prefill({name: value for name, value in good.items() if name != "batch_index"})


def test_a_graph_with_other_inputs_than_its_manifest_says_is_refused(fake_lite, tmp_path, monkeypatch):
    write_export(tmp_path)
    graph = fake_lite.Model.get_inputs
    monkeypatch.setattr(fake_lite.Model, "get_inputs", lambda self: graph(self)[::-1])
    with pytest.raises(CodeLlamaError, match=r"takes int64 \(128,\), .* in MindSpore Lite; its manifest says int32 \(1, 128\)"):
        opened(tmp_path)


def test_what_lite_refuses_is_told_with_the_file(fake_lite, tmp_path, monkeypatch):
    write_export(tmp_path)

    def fail(*_, **__):
        raise RuntimeError("build_from_file failed! Error is Common error code.\nmore")

    monkeypatch.setattr(fake_lite.Model, "build_from_file", fail)
    with pytest.raises(EnvironmentFault, match=r"rank_0\.mindir: MindSpore Lite refused it: build_from_file failed! .* code\. Fix"):
        opened(tmp_path)


def test_the_batch_and_the_prompt_must_fit(fake_lite, tmp_path):
    write_export(tmp_path, batch=2)
    decoder = MindIRDecoder(opened(tmp_path))
    with pytest.raises(GenerationError, match="3 prompts at once, but the graphs were exported for 2"):
        decoder.prefill(*right_padded(PROMPTS))
    with pytest.raises(GenerationError, match="has 129 tokens, the model holds 128"):
        decoder.prefill(*right_padded([[1] * 129]))
    with pytest.raises(GenerationError, match="no beam search"):
        generate(decoder, PROMPTS[:1], GenerationConfig(max_new_tokens=4, num_beams=2, use_past=True))


def test_a_full_row_does_not_disturb_the_others(fake_lite, tmp_path):
    write_export(tmp_path, batch=2, paged=True)
    decoder = MindIRDecoder(opened(tmp_path))
    decoder.prefill(*right_padded([[1] * (SEQ - 1), [1, 6]]))
    row = [1, 6]
    for token in (5, 6, 7):
        logits = decoder.step(np.array([9, token], np.int32))
        row.append(token)
        assert np.array_equal(logits[1], fake_lite.toy_logits(row, VOCAB, SALT))
