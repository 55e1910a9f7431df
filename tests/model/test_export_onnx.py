"""ONNX files give the model's logits and tokens when onnxruntime runs them; where it is not installed that is not shown."""

import json

import numpy as np
import pytest
from export_case import CONFIG, build, weights
from llama_numpy import logits_of_row, relative_error

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.export.onnx import OnnxDecoder, export_onnx, onnx_findings
from mindformers_codellama.export.onnx_graphs import onnx_graph
from mindformers_codellama.export.request import ExportRequest, ExportSizes
from mindformers_codellama.layout.ranks import Layout

SIZES = ExportSizes(weights=1000, held=1000, cache=0, graphs=0, one_cache=0)


def test_the_graphs_are_the_model_step_by_step(graph_mode):
    """The cells themselves, run by MindSpore: what is exported, without onnxruntime."""
    network, known = build(), weights()
    (full, _), (step, signature) = onnx_graph("full", network, 2), onnx_graph("inc", network, 2)
    import mindspore as ms

    ids = np.random.default_rng(0).integers(1, 97, (2, CONFIG.seq_length)).astype(np.int32)
    lengths = np.array([9, 4], np.int32)
    logits, *caches = full(ms.Tensor(ids), ms.Tensor(lengths))
    wanted = [logits_of_row(row[:length], known, CONFIG)[-1] for row, length in zip(ids, lengths, strict=True)]
    assert relative_error(logits.asnumpy(), wanted) < 1e-5
    logits, *caches = step(ms.Tensor(np.array([[5], [6]], np.int32)), ms.Tensor(lengths + 1), *caches)
    wanted = [logits_of_row([*row[:length], 5 + i], known, CONFIG)[-1] for i, (row, length) in enumerate(zip(ids, lengths, strict=True))]
    assert relative_error(logits.asnumpy(), wanted) < 1e-5
    assert [one.shape for one in caches] == [spec.shape for spec in signature.outputs[1:]]


def test_onnxruntime_gives_the_same_tokens(graph_mode, tmp_path):
    pytest.importorskip("onnxruntime")
    request = ExportRequest(folder=tmp_path, batch_size=2, stop_token_ids=(2,))
    report = export_onnx(build, request, sizes=SIZES)
    assert report.verification["verified"]
    assert json.loads((tmp_path / "onnx/onnx.json").read_text())["verification"]["steps"] == 8
    decoder = OnnxDecoder(tmp_path / "onnx", CONFIG, {role: onnx_graph(role, build(), 2)[1] for role in ("full", "inc")})
    known = weights()
    rows = [[3, 1, 4, 1, 5], [9, 2]]
    found = decoder.prefill(np.array([rows[0], [*rows[1], 0, 0, 0]], np.int32), np.array([5, 2], np.int32))
    for _ in range(6):
        wanted = np.stack([logits_of_row(row, known, CONFIG)[-1] for row in rows])
        assert relative_error(found, wanted) < 1e-5
        tokens = found.argmax(-1).astype(np.int32)
        np.testing.assert_array_equal(tokens, wanted.argmax(-1))
        rows = [[*row, int(token)] for row, token in zip(rows, tokens, strict=True)]
        found = decoder.step(tokens)


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "onnx").mkdir()
    with pytest.raises(CheckpointError, match=r"onnx: exists already.*--force"):
        export_onnx(build, ExportRequest(folder=tmp_path), sizes=SIZES)


@pytest.mark.parametrize(
    ("options", "ranks", "size", "message"),
    [
        ({"dynamic": True}, 1, 1, "--dynamic: is not for ONNX"),
        ({"form": "int8"}, 1, 1, "--weights: is not for ONNX"),
        ({"blocks": 9}, 1, 1, "--paged-blocks: is not for ONNX"),
        ({}, 2, 1, "use_parallel: is not for ONNX"),
        ({}, 1, 1 << 31, "do not fit into an ONNX file"),
    ],
)
def test_what_onnx_cannot_hold(tmp_path, options, ranks, size, message):
    sizes = ExportSizes(weights=size, held=size, cache=0, graphs=0, one_cache=0)
    request = ExportRequest(folder=tmp_path, **options)
    found = "\n".join(map(str, onnx_findings(CONFIG, Layout(model_parallel=ranks), request, sizes)))
    assert message in found
    assert not list(onnx_findings(CONFIG, Layout(), ExportRequest(folder=tmp_path), SIZES))
