"""Exported graphs are the model: their logits against numpy in float64, and what the engine refuses.

Bound 1e-5 of the largest logit, as for the live decoders: the same float32 sums in another order; measured 1e-6.
"""

import numpy as np
import pytest
from export_case import CONFIG, build, export, opened, weights
from llama_numpy import logits_of_row, relative_error
from mindspore.train import mind_ir_pb2

from mindformers_codellama.errors import CheckpointError, GenerationError, TokenizerError
from mindformers_codellama.mindir.manifest import read_export_manifest
from mindformers_codellama.mindir.protocol import FULL, INC

BOUND = 1e-5
KINDS = {"static": {}, "single": {"dynamic": True, "single": True}, "paged": {"blocks": 9, "block_size": 12}}
LENGTHS = np.array([17, 9], np.int32)


@pytest.fixture(scope="module", params=["static", "single", pytest.param("paged", marks=pytest.mark.slow)])
def case(request, tmp_path_factory):
    """Export directory, its report, and a loaded engine with its decoder."""
    folder = tmp_path_factory.mktemp(request.param)
    report = export(folder, batch_size=2, verify=request.param == "static", **KINDS[request.param])
    return folder, report, *opened(folder)


def prompts(seed=0, lengths=LENGTHS):
    ids = np.random.default_rng(seed).integers(1, 97, (len(lengths), max(lengths))).astype(np.int32)
    return np.where(np.arange(max(lengths)) < lengths[:, None], ids, 0).astype(np.int32)


def test_prompts_and_steps_give_the_models_logits(case):
    decoder = case[3]
    known, ids = weights(), prompts()
    found = decoder.prefill(ids, LENGTHS)
    rows = [list(row[:length]) for row, length in zip(ids, LENGTHS, strict=True)]
    for _ in range(6):
        wanted = np.stack([logits_of_row(row, known, CONFIG)[-1] for row in rows])
        assert relative_error(found, wanted) < BOUND
        tokens = wanted.argmax(-1).astype(np.int32)
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)
        found = decoder.step(tokens)


def test_a_new_prompt_forgets_the_old_one(case):
    engine, decoder = case[2:]
    ids, short = prompts(5), np.array([1, 3], np.int32)
    decoder.prefill(prompts(7), LENGTHS)
    decoder.step(np.array([5, 6], np.int32))
    found = decoder.prefill(ids[:, :3], short)
    assert relative_error(found, [logits_of_row(ids[row, :length], weights(), CONFIG)[-1] for row, length in enumerate(short)]) < BOUND
    engine.reset()
    with pytest.raises(GenerationError, match="no rows to go on with"):
        decoder.step(np.array([1, 1], np.int32))
    decoder.prefill(ids[:, :3], short)
    wanted = [logits_of_row([*ids[row, :length], 8], weights(), CONFIG)[-1] for row, length in enumerate(short)]
    assert relative_error(decoder.step(np.array([8, 8], np.int32)), wanted) < BOUND


def test_positions_reach_to_the_end_of_the_cache(case):
    decoder = case[3]
    lengths = np.array([CONFIG.seq_length - 1, 2], np.int32)
    ids = prompts(3, lengths)
    decoder.prefill(ids, lengths)
    wanted = [logits_of_row([*ids[row, :length], 11], weights(), CONFIG)[-1] for row, length in enumerate(lengths)]
    assert relative_error(decoder.step(np.array([11, 11], np.int32)), wanted) < BOUND


def test_the_manifest_says_the_contracts_inputs_in_order(case):
    manifest = read_export_manifest(case[0])
    first = "input_ids int32, batch_valid_length int32, "
    wanted = {FULL: f"{first}slot_mapping int32", INC: f"{first}block_tables int32, slot_mapping int32"}
    for role in (FULL, INC):
        names = ", ".join(f"{spec.name} {spec.dtype}" for spec in manifest.graph(0, role).signature.inputs)
        assert names == wanted[role] if manifest.kv.blocks else f"{first}batch_index int64, zactivate_len int64"
    for graph in manifest.graphs:
        model = mind_ir_pb2.ModelProto()
        model.ParseFromString((case[0] / graph.file).read_bytes())
        assert [one.name.split(":")[-1] for one in model.graph.input] == [spec.name for spec in graph.signature.inputs]
        kinds = {mind_ir_pb2.TensorProto.INT32: "int32", mind_ir_pb2.TensorProto.INT64: "int64"}
        assert [kinds[one.tensor[0].data_type] for one in model.graph.input] == [spec.dtype for spec in graph.signature.inputs]
        shapes = [tuple(None if dim < 0 else dim for dim in one.tensor[0].dims) for one in model.graph.input]
        assert shapes == [spec.shape for spec in graph.signature.inputs]


def test_weights_stand_once_on_disk_and_caches_are_empty(case):
    folder, report, engine, _ = case
    held = sum(one.nbytes for one in build().get_parameters())
    kv = read_export_manifest(folder).kv
    cache = (kv.blocks * kv.block_size or 2 * CONFIG.seq_length) * CONFIG.num_kv_heads * CONFIG.head_dim * 4
    inodes = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("data_0")}
    assert len(inodes) == 1
    assert 0 <= sum(inodes.values()) - held - cache < 64 * 40, "64 bytes of alignment per tensor at most"
    assert not list(folder.glob(".export*")), "nothing unfinished is left"
    engine.reset()
    assert report.verification["verified"] is read_export_manifest(folder).verified is not (kv.blocks or engine.manifest.single)


def test_two_graphs_use_one_memory(case):
    engine = case[2]
    first, second = ({name: one.data_ptr() for name, one in engine._cells[role].parameters_and_names()} for role in (FULL, INC))
    assert first == second
    assert len(first) == len(list(build().get_parameters())) + 2 * CONFIG.num_layers


def test_wrong_inputs_never_reach_mindspore(case, monkeypatch):
    engine = case[2]
    if engine.manifest.kv.blocks:
        pytest.skip("below")
    fixed = engine.signature(FULL).inputs[0].shape[1]
    tokens = fixed or 20
    good = {
        "input_ids": np.ones((2, tokens), np.int32),
        "batch_valid_length": np.array([3, 4], np.int32),
        "batch_index": np.arange(2),
        "zactivate_len": np.zeros(fixed or 20, np.int64),
    }
    engine.prefill(good)
    monkeypatch.setitem(engine._cells, FULL, None)
    wrong = [
        ({"input_ids": np.ones((2, tokens))}, "input_ids int32 .* got float64"),
        ({"input_ids": np.ones((2, tokens), np.int64)}, "input_ids int32 .* got int64"),
        ({"input_ids": np.ones((3, tokens), np.int32)}, r"input_ids int32 .* got int32 \(3, "),
        ({"input_ids": good["input_ids"].tolist()}, "got list"),
        ({"batch_valid_length": np.array([3, 49], np.int32)}, "batch_valid_length of row 1 is 49"),
        ({"batch_valid_length": np.array([0, 4], np.int32)}, "batch_valid_length of row 0 is 0"),
        ({"batch_index": np.array([1, 0])}, "batch_index must be 0 to 1"),
        ({"zactivate_len": np.zeros(49, np.int64)}, "zactivate_len"),
        ({"other": np.zeros(1)}, "takes input_ids, batch_valid_length, batch_index, zactivate_len; got"),
    ]
    if fixed is None:
        wrong.append(({"input_ids": np.ones((2, 60), np.int32)}, "has 60 positions per row; the graphs were exported for 1 to 48"))
        wrong.append(({"zactivate_len": np.zeros(19, np.int64)}, "must have 20 to 48"))
    for change, message in wrong:
        with pytest.raises(GenerationError, match=message):
            engine.prefill({**good, **change})
    for token in (-1, 97):
        with pytest.raises(TokenizerError, match=f"token id {token} at .* is outside the model's vocabulary of 97"):
            engine.prefill({**good, "input_ids": np.where(np.arange(tokens) == 2, token, good["input_ids"]).astype(np.int32)})
    with pytest.raises(GenerationError, match="takes input_ids"):
        engine.prefill({})


def test_slots_that_are_not_a_rows_own_never_reach_mindspore(case, monkeypatch):
    engine, decoder = case[2:]
    if not engine.manifest.kv.blocks:
        pytest.skip("above")
    seen = []
    for name in ("prefill", "decode"):
        monkeypatch.setattr(decoder._engine, name, lambda inputs: seen.append(inputs) or np.zeros((2, 97), np.float32))
    decoder.prefill(prompts(), LENGTHS)
    decoder.step(np.array([1, 2], np.int32))
    monkeypatch.undo()
    full, step = seen
    engine.prefill(full)
    engine.decode(step)
    slots, tables = step["slot_mapping"], step["block_tables"]
    for role, change in (
        (FULL, {"slot_mapping": np.roll(full["slot_mapping"], 1)}),
        (FULL, {"slot_mapping": np.where(full["slot_mapping"] == 12, 13, full["slot_mapping"])}),
        (FULL, {"slot_mapping": np.where(full["slot_mapping"] == 12, 12 * 9, full["slot_mapping"])}),
        (INC, {"slot_mapping": slots - slots.min()}),
        (INC, {"slot_mapping": slots[::-1].copy()}),
        (INC, {"block_tables": np.where(tables == tables.max(), 9, tables)}),
    ):
        inputs = {**(full if role == FULL else step), **change}
        with pytest.raises(GenerationError, match="slot_mapping"):
            engine.prefill(inputs) if role == FULL else engine.decode(inputs)


def test_an_older_export_is_not_written_over(case):
    with pytest.raises(CheckpointError, match=r"mindir_full_checkpoint: exists already.*--force"):
        export(case[0], batch_size=2)


def grouped(weight_OI, limit):
    """Rounded to whole numbers per row and 64 columns, the scale rounded up to bfloat16; in numpy, by the formula of the page."""
    found = np.zeros_like(weight_OI, dtype=np.float64)
    for first in range(0, weight_OI.shape[1], 64):
        part = weight_OI[:, first : first + 64].astype(np.float64)
        bits = (np.abs(part).max(-1, keepdims=True) / limit).astype(np.float32).view(np.uint32)
        scale = ((bits + 0xFFFF) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)
        found[:, first : first + 64] = np.rint(part / scale) * scale
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("form", "limit"), [("int8", 127), ("int4", 7)])
def test_integer_matrices_stand_for_the_values_of_quantize(tmp_path, form, limit):
    key = tmp_path / "key"
    key.write_text("00112233445566778899aabbccddeeff\n")
    keys = {"key_file": key} if form == "int8" else {}
    export(tmp_path / form, form=form, dynamic=True, single=True, verify=False, **keys)
    known = {name: grouped(one, limit) if one.ndim == 2 and "embedding" not in name else one for name, one in weights().items()}
    _, decoder = opened(tmp_path / form, **keys)
    ids = prompts()[:1]
    assert relative_error(decoder.prefill(ids, LENGTHS[:1]), [logits_of_row(ids[0], known, CONFIG)[-1]]) < BOUND
    assert relative_error(decoder.step(np.array([9], np.int32)), [logits_of_row([*ids[0], 9], known, CONFIG)[-1]]) < BOUND
    if keys:
        key.write_text("10112233445566778899aabbccddeeff\n")
        with pytest.raises(CheckpointError, match=r"rank_0.mindir: cannot be decrypted with this key"):
            opened(tmp_path / form, key_file=key)


@pytest.mark.slow
def test_force_replaces_it_whole(tmp_path):
    export(tmp_path, verify=False, dynamic=True, single=True)
    (tmp_path / "mindir_inc_checkpoint").mkdir()
    before = read_export_manifest(tmp_path)
    assert before.verification == {"verified": False, "reason": "the comparison was switched off"}
    (tmp_path / "kept.txt").write_text("a stranger's")
    export(tmp_path, seed=2, verify=False, force=True, dynamic=True, single=True)
    after = read_export_manifest(tmp_path)
    assert after.model_id != before.model_id
    assert not (tmp_path / "mindir_inc_checkpoint").exists(), "what a pair had left there goes too"
    assert (tmp_path / "kept.txt").exists()
    opened(tmp_path)
