"""An export directory with toy graphs (see tests/lite_fake), and what generation must get from it."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from mindformers_codellama.checkpoint.files import FileRecord
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.manifest import (
    GROUPS,
    PAGED,
    STATIC,
    ExportManifest,
    Graph,
    KVCache,
    graph_files,
    write_export_manifest,
)
from mindformers_codellama.mindir.protocol import FULL, INC, SINGLE, Signature, TensorSpec

FAKE = Path(__file__).resolve().parents[2] / "lite_fake"
VOCAB, SEQ, BLOCK, SALT = 50, 128, 16, 77
MODEL = ModelConfig(
    vocab_size=VOCAB, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, intermediate_size=32, seq_length=SEQ, max_position=SEQ
)


def signature(role, *, batch, dynamic=False, paged=False, rows=None):
    """Inputs as mindir.protocol describes them; of dynamic graphs the rows may be fixed."""
    rows = rows if dynamic else batch
    width = 1 if role == INC else (None if dynamic else SEQ)
    inputs = [TensorSpec(name="input_ids", dtype="int32", shape=(rows, width))]
    inputs.append(TensorSpec(name="batch_valid_length", dtype="int32", shape=(rows,)))
    if paged:
        if role == INC:
            inputs.append(TensorSpec(name="block_tables", dtype="int32", shape=(rows, SEQ // BLOCK)))
        inputs.append(TensorSpec(name="slot_mapping", dtype="int32", shape=(batch * (width or SEQ),)))
    else:
        inputs.append(TensorSpec(name="batch_index", dtype="int64", shape=(rows,)))
        inputs.append(TensorSpec(name="zactivate_len", dtype="int64", shape=(None if dynamic else SEQ,)))
    return Signature(inputs=tuple(inputs), outputs=(TensorSpec(name="logits", dtype="float32", shape=(rows, VOCAB)),))


def write_export(folder, *, batch=1, dynamic=False, paged=False, blocks=0, ranks=1, target="ascend", vocab=VOCAB, **said):
    """Toy graphs of every rank, and their manifest."""
    salt = said.get("salt", SALT)
    blocks = blocks or 1 + batch * SEQ // BLOCK
    graphs = []
    for rank in range(ranks):
        for role in (SINGLE,) if said.get("single") else (FULL, INC):
            inputs = signature(role, batch=batch, dynamic=dynamic, paged=paged)
            path = folder / graph_files(role, rank)[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            listed = [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape} for spec in inputs.inputs]
            toy = {"inputs": listed, "vocab": vocab, "seq": SEQ, "salt": salt, "collective": ranks > 1, "rank": rank}
            path.write_text(json.dumps(toy))
            graphs.append(Graph(role=role, rank=rank, file=graph_files(role, rank)[0], data=(), signature=inputs))
    names = [graph.file for graph in graphs]
    manifest = ExportManifest(
        model_id=f"model {salt}",
        model=dataclasses.replace(MODEL, vocab_size=vocab),
        weight_form="float32",
        batch_size=batch,
        dynamic=dynamic,
        kv=KVCache(
            layout=PAGED if paged else STATIC, dtype="float32", block_size=BLOCK if paged else 0, blocks=blocks or 1 + batch * SEQ // BLOCK
        ),
        target=target,
        world_size=ranks,
        group=GROUPS[target] if ranks > 1 else "",
        graphs=tuple(graphs),
        files=tuple(FileRecord(name, (folder / name).stat().st_size, file_sha256(folder / name)) for name in names),
        encryption=said.get("encryption", ""),
        tokenizer=said.get("tokenizer", {}),
        stop_token_ids=(2,),
        versions={},
        verification={"verified": True},
    )
    write_export_manifest(folder, manifest)
    return manifest


def rank_table(path, ranks, first_device=0):
    """A rank table of one server."""
    devices = [{"device_id": str(first_device + i), "device_ip": f"192.168.100.{i + 1}", "rank_id": str(i)} for i in range(ranks)]
    server = {"server_id": "127.0.0.1", "device": devices, "host_nic_ip": "reserve"}
    path.write_text(json.dumps({"version": "1.0", "server_count": "1", "server_list": [server], "status": "completed"}))
    return path


def right_padded(rows):
    """int32 `(B, T)` and `(B,)`."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    return tokens, lengths
