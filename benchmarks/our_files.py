"""Writes the same random models for this package: Hugging Face folders, and packed forms made of them by `codellama quantize`.

    python our_files.py --shape 1.1b --form int8 --folder FOLDER

A folder that is there already is kept. Run by compare.py in this package's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from random_weights import weights
from shapes import FORMS, NORM_EPS, ROPE_THETA, SHAPES, SOURCE, Shape, our_folder

SCHEMES = {"bfloat16": "bf16", "int8": "w8", "int4": "w4"}
TYPES = {"float32": ("F32", np.dtype(np.float32)), SOURCE: ("BF16", np.dtype(ml_dtypes.bfloat16))}
POSITIONS = 8192


def config_json(shape: Shape, form: str) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32" if form == "float32" else "bfloat16",
    }


def write_folder(path: Path, shape: Shape, form: str) -> None:
    """config.json and model.safetensors, tensor by tensor; norms in the same type as the rest."""
    code, dtype = TYPES[form]
    header, offset = {}, 0
    for weight in weights(shape):
        size = int(np.prod(weight.dims)) * dtype.itemsize
        header[weight.name] = {"dtype": code, "shape": list(weight.dims), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / "config.json").write_text(json.dumps(config_json(shape, form), indent=1), encoding="utf-8")
    with (unfinished / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in weights(shape):
            weight.values().astype(dtype).tofile(file)
    os.replace(unfinished, path)


def prepare(folder: Path, shape: str, form: str) -> Path:
    """Make the folder unless it is there."""
    path = folder / our_folder(shape, form)
    if path.exists():
        return path
    if form in TYPES:
        write_folder(path, SHAPES[shape], form)
        return path
    source = prepare(folder, shape, SOURCE)
    command = [sys.executable, "-m", "mindformers_codellama.cli.main", "quantize", str(source), str(path), "--scheme", SCHEMES[form]]
    subprocess.run(command, check=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--form", choices=(*FORMS, SOURCE), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(prepare(arguments.folder, arguments.shape, arguments.form))


if __name__ == "__main__":
    main()
