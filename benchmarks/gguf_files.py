"""Writes random GGUF models for llama.cpp, tensor by tensor, so that memory stays that of the largest one.

    PEERS/bin/python gguf_files.py --shape 1.1b --form int8 --folder FOLDER

Embedding and head have the same form as the layers. There is no tokenizer ("no_vocab" and a vocabulary size): token ids
go in and come out. A file that is there already is kept. Run by compare.py in the peers' environment (numpy and gguf).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import gguf
import numpy as np
from random_weights import Weight, weights
from shapes import FORMS, NORM_EPS, ROPE_THETA, SHAPES, Shape, gguf_file

TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
    "int4": gguf.GGMLQuantizationType.Q4_0,
}
CHUNK_ROWS = 1024
"""Rows quantised at once."""


def as_written(weight: Weight, shape: Shape) -> np.ndarray:
    """float32 in llama.cpp's order: rotary pairs lie next to each other there, half a head apart in Hugging Face's files."""
    values = weight.values()
    for part, heads in (("attn_q", shape.num_heads), ("attn_k", shape.num_kv_heads)):
        if f".{part}." in weight.gguf_name:
            rows, columns = values.shape
            return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return values


def packed(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The bytes of a tensor, quantised a few rows at a time."""
    if kind == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(values)
    pieces = [gguf.quants.quantize(values[row : row + CHUNK_ROWS], kind) for row in range(0, len(values), CHUNK_ROWS)]
    return np.concatenate(pieces)


def write_gguf(path: Path, shape: Shape, form: str, *, positions: int = 8192) -> None:
    """Write the file under another name, then give it its own."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    writer = gguf.GGUFWriter(unfinished, "llama")
    writer.add_context_length(positions)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_rope_dimension_count(shape.hidden_size // shape.num_heads)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    kinds = {}
    for weight in weights(shape):
        kind = kinds[weight.gguf_name] = gguf.GGMLQuantizationType.F32 if weight.is_norm else TYPES[form]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(weight.dims))
        writer.add_tensor_info(weight.gguf_name, weight.dims, np.dtype(np.float32), count // block * size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for weight in weights(shape):
        writer.write_tensor_data(packed(as_written(weight, shape), kinds[weight.gguf_name]))
    writer.close()
    os.replace(unfinished, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--form", choices=FORMS, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / gguf_file(arguments.shape, arguments.form)
    if not path.exists():
        write_gguf(path, SHAPES[arguments.shape], arguments.form)
    print(path)


if __name__ == "__main__":
    main()
