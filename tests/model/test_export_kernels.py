"""Exported graphs of the CPU kernels: the model's logits, weights and cache in place, and every way the library may not be the right one.

Float32 against numpy in float64, bound 1e-5 of the largest logit as for the live decoders. Packed weights against the live network
kernel over the same bytes: the same arithmetic, so the same bits.
"""

import dataclasses

import numpy as np
import pytest
from export_case import CONFIG, CONTEXT, build, export, opened, rewrite, weights
from llama_numpy import logits_of_row, relative_error

from mindformers_codellama.backends.fused_decoder import FusedDecoder
from mindformers_codellama.backends.packed_model import PackedModel
from mindformers_codellama.checkpoint.packed_layout import packed_model, slots
from mindformers_codellama.checkpoint.packed_write import InMemory, pack_weights
from mindformers_codellama.checkpoint.tensors import ComputedTensor
from mindformers_codellama.errors import CheckpointError, EnvironmentFault
from mindformers_codellama.export.kernel_graphs import stacked
from mindformers_codellama.export.request import ExportRequest, export_sizes
from mindformers_codellama.export.run import export_network
from mindformers_codellama.kernels.library import library_path
from mindformers_codellama.kernels.mindir import ROWS, require_entries
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.mindir import graph_engine
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.graph_engine import GraphEngine
from mindformers_codellama.mindir.manifest import KERNELS, read_export_manifest
from mindformers_codellama.mindir.open import Place, open_engine
from mindformers_codellama.mindir.protocol import FULL, INC
from mindformers_codellama.parallel.comm import SINGLE

BOUND = 1e-5
LENGTHS = np.array([17, 9], np.int32)
LONGER = dataclasses.replace(CONFIG, seq_length=150, max_position=150)
"""Rows of more than two pages."""


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        require_entries((ROWS,), where="tests")
    except EnvironmentFault as fault:
        pytest.skip(str(fault))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Export directory, loaded engine and decoder of a float32 network."""
    folder = tmp_path_factory.mktemp("kernels")
    export(folder, config=LONGER, batch_size=2, operators=KERNELS)
    return folder, *opened(folder)


def prompts(lengths, seed=0):
    ids = np.random.default_rng(seed).integers(1, 97, (len(lengths), max(lengths))).astype(np.int32)
    return np.where(np.arange(max(lengths)) < lengths[:, None], ids, 0).astype(np.int32)


@pytest.mark.parametrize("lengths", [LENGTHS, np.array([1, 62], np.int32), np.array([3], np.int32)])
def test_prompts_and_steps_give_the_models_logits(case, lengths):
    """Rows of different lengths, over the end of a page, and one row fewer than the graphs have."""
    decoder, known, ids = case[2], weights(), prompts(lengths)
    found = decoder.prefill(ids, lengths)
    rows = [list(row[:length]) for row, length in zip(ids, lengths, strict=True)]
    for _ in range(4):
        wanted = np.stack([logits_of_row(row, known, LONGER)[-1] for row in rows])
        assert relative_error(found, wanted) < BOUND
        tokens = wanted.argmax(-1).astype(np.int32)
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)
        found = decoder.step(tokens)


def test_padding_is_not_read(case):
    """What stands behind a prompt, even at the exported length, changes nothing at all."""
    engine = case[1]
    ids = prompts(LENGTHS)
    given = {"batch_valid_length": LENGTHS, "batch_index": np.arange(2), "zactivate_len": np.zeros(150, np.int64)}
    found = []
    for padding in (0, 55):
        whole = np.full((2, 150), padding, np.int32)
        for row, length in enumerate(LENGTHS):
            whole[row, :length] = ids[row, :length]
        found.append(engine.prefill({"input_ids": whole, **given}))
    np.testing.assert_array_equal(*found)


def test_both_graphs_use_one_memory_and_reset_empties_it(case):
    engine, decoder = case[1:]
    decoder.prefill(prompts(LENGTHS), LENGTHS)
    first, second = (dict(engine._cells[role].parameters_and_names()) for role in (FULL, INC))
    assert {name: one.data_ptr() for name, one in first.items()} == {name: one.data_ptr() for name, one in second.items()}
    assert first["key_past."].asnumpy().any()
    engine.reset()
    assert not first["key_past."].asnumpy().any()
    assert not second["value_past."].asnumpy().any()


def test_the_manifest_says_what_the_graphs_need(case):
    manifest = read_export_manifest(case[0])
    assert (manifest.operators, manifest.entry_points, manifest.kv.layout, manifest.kv.dtype) == (KERNELS, (ROWS,), "pools", "float32")
    assert manifest.kernel_version > 0
    assert manifest.verified
    assert len({path.stat().st_ino for path in case[0].rglob("data_0")}) == 1


def packed(form):
    """The toy network in a packed form, made as `codellama quantize` makes it."""
    group = 0 if form == "bfloat16" else 64
    made = InMemory(slots(CONFIG, form, group))
    tensors = {name: ComputedTensor(value.shape, "float32", lambda value=value: value) for name, value in weights().items()}
    pack_weights(tensors, CONFIG, form, group, made, measure=False)
    return packed_model(CONFIG, form, group, made.arrays)


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
def test_packed_weights_are_those_of_the_live_kernel(tmp_path, form):
    model = packed(form)
    request = ExportRequest(folder=tmp_path, batch_size=2, operators=KERNELS, form=form, group=model.group or 64)
    sizes = export_sizes(CONFIG, ModelLayout(config=CONFIG, layout=Layout(), vocabulary_cut=False).shapes, request, 1)
    export_network(lambda: model, request, sizes=sizes, comm=SINGLE, context=CONTEXT)
    data = next(tmp_path.rglob("data_0")).stat().st_size
    assert 0 <= data - sizes.held - sizes.one_cache < 64 * 20, "64 bytes of alignment per array at most"
    assert read_export_manifest(tmp_path).kv.dtype == "bfloat16"
    decoder, live, ids = opened(tmp_path)[1], FusedDecoder(model), prompts(LENGTHS)
    found, wanted = (each.prefill(ids, LENGTHS) for each in (decoder, live))
    for _ in range(4):
        np.testing.assert_array_equal(found, wanted)
        tokens = wanted.argmax(-1).astype(np.int32)
        found, wanted = decoder.step(tokens), live.step(tokens)


@pytest.fixture
def copied(tmp_path_factory, tmp_path):
    """An export that may be broken; not compared, for that is done above."""
    export(tmp_path / "out", operators=KERNELS, verify=False)
    return tmp_path / "out"


def test_a_library_of_another_place_is_found(copied):
    """As after copying an export to another machine: the loader sets the path in a copy, and leaves none behind."""
    manifest = read_export_manifest(copied)
    here, there = str(library_path().resolve()).encode(), b"/nowhere/lib.so"
    changed = []
    for graph in manifest.graphs:
        path = copied / graph.file
        content = path.read_bytes()
        assert here in content
        # strings of a protobuf know their length, so the other path is padded to the same one
        path.write_bytes(content.replace(here, there.ljust(len(here), b"_")))
        changed.append(dataclasses.replace(manifest.record(graph.file), sha256=file_sha256(path)))
    others = [file for file in manifest.files if file.name not in {one.name for one in changed}]
    rewrite(copied, files=(*changed, *others))
    before = sorted(copied.rglob("*"))
    decoder = opened(copied)[1]
    wanted = logits_of_row([5, 6, 7], weights(), CONFIG)[-1]
    assert relative_error(decoder.prefill(np.array([[5, 6, 7]], np.int32), np.array([3], np.int32))[0], wanted) < BOUND
    assert sorted(copied.rglob("*")) == before


def test_a_library_that_is_not_the_right_one_is_refused(copied, monkeypatch):
    def refused(message):
        with pytest.raises(EnvironmentFault, match=message):
            GraphEngine(copied, context=CONTEXT).load()

    with monkeypatch.context() as patch:
        patch.setenv("CODELLAMA_KERNELS", "off")
        refused(r"export/manifest.json: is of the CPU kernels' operators, and \$CODELLAMA_KERNELS switches them off")

    def missing():
        raise EnvironmentFault("lib.so", "the kernel library is not there.", fix="build it")

    with monkeypatch.context() as patch:
        patch.setattr("mindformers_codellama.mindir.graph_engine.load_library", missing)
        refused("cannot be used: lib.so: the kernel library is not there. Fix: install this package again")
    rewrite(copied, entry_points=("LlamaRowz",))
    refused("needs the entry point LlamaRowz, which the kernel library")
    rewrite(copied, kernel_version=99)
    refused("needs version 99 of the kernels; this package has")
    with pytest.raises(CheckpointError, match="which MindSpore Lite does not have. Fix: give --engine graph"):
        open_engine(copied, Place(engine="lite"))


def test_a_failing_kernel_says_why(case, monkeypatch):
    """Not MindSpore's words about a framework error. (What a kernel refuses is refused before; here that is switched off.)"""
    engine, decoder = case[1:]
    decoder.prefill(prompts(LENGTHS), LENGTHS)
    monkeypatch.setattr(graph_engine, "check_inputs", lambda spec, inputs, **_: [inputs[one.name] for one in spec.inputs])
    given = {"input_ids": np.ones((2, 1), np.int32), "batch_valid_length": np.array([2, 0], np.int32)}
    with pytest.raises(EnvironmentFault, match="a kernel operator failed: LlamaRows: row 1 has 1 ids, not the 0 of its length"):
        engine.decode({**given, "batch_index": np.arange(2), "zactivate_len": np.zeros(150, np.int64)})


def test_a_network_is_stacked_without_loss():
    network = build()
    model = stacked(network)
    assert isinstance(model, PackedModel)
    held = sum(array.nbytes for array in model.arrays.values())
    assert held == sum(one.nbytes for one in network.get_parameters())
    ids = prompts(LENGTHS)
    np.testing.assert_array_equal(FusedDecoder(model).prefill(ids, LENGTHS), FusedDecoder(network).prefill(ids, LENGTHS))
