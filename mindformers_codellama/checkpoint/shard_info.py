"""What one rank's file says about itself: the layout it was saved in, and which part of every tensor it holds.

The description travels inside the file, so that it appears and goes with it: in a safetensors file as metadata, in a
`.ckpt` as a uint8 tensor of UTF-8 JSON, because MindSpore's `transform_checkpoints` fails on text entries
(measured with MindSpore 2.10). MindSpore copies entries it does not know from rank to rank, so a description is believed
only when it fits the tensors it came with: see `ShardInfo.fits`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.boxes import Box
from mindformers_codellama.layout.cuts import MOMENTS, ModelLayout
from mindformers_codellama.layout.ranks import Layout

SHARD_KEY = "codellama_shard"
"""Name of the entry."""
SHARD_VERSION = 1


class Piece(NamedTuple):
    """The part of one tensor that a file holds."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    box: Box


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """The description of one rank's file."""

    layout: Layout
    rank: int
    pieces: Mapping[str, Piece]
    """Every weight and moment in the file."""
    save: str = ""
    """Names the save: the files of all its ranks have the same; empty when it is not known."""

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a file with these weights and moments (name to shape) is the one described."""
        return {name: piece.box.shape for name, piece in self.pieces.items()} == dict(shapes)


def shard_info(model_layout: ModelLayout, rank: int, *, moments: bool = True, save: str = "") -> ShardInfo:
    """What the file of `rank` holds: its weights, and with `moments` its optimizer states; `save` as in `ShardInfo`."""
    pieces: dict[str, Piece] = {}
    for prefix in ("", *(MOMENTS if moments else ())):
        for name, shape in model_layout.shapes.items():
            box = model_layout.box(prefix + name, rank)
            if box is not None:
                pieces[prefix + name] = Piece(shape, box)
    return ShardInfo(layout=model_layout.layout, rank=rank, pieces=pieces, save=save)


def shard_text(info: ShardInfo) -> str:
    """JSON of a description."""
    layout = info.layout
    values = {
        "version": SHARD_VERSION,
        "layout": [layout.data_parallel, layout.model_parallel, layout.pipeline_stage],
        "rank": info.rank,
        "save": info.save,
        "tensors": {name: [piece.shape, piece.box.start, piece.box.stop] for name, piece in info.pieces.items()},
    }
    return json.dumps(values, separators=(",", ":"))


def read_shard_text(text: str, *, where: object) -> ShardInfo:
    """The inverse of `shard_text`.

    Raises:
        CheckpointError: damaged, or written by a later version.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        if values["version"] > SHARD_VERSION:
            raise CheckpointError(where, "was written by a later version of this package.", fix="update it.")
        data, model, stage = values["layout"]
        pieces = {name: Piece(tuple(shape), Box(tuple(start), tuple(stop))) for name, (shape, start, stop) in values["tensors"].items()}
        layout = Layout(data_parallel=data, model_parallel=model, pipeline_stage=stage)
        return ShardInfo(layout=layout, rank=values["rank"], pieces=pieces, save=values["save"])
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(where, f"has a damaged {SHARD_KEY} ({error}).", fix="take an earlier checkpoint.") from error


def text_tensor(text: str) -> np.ndarray:
    """Text as a uint8 array, for entries of a `.ckpt` that MindSpore's tools have to pass over."""
    return np.frombuffer(text.encode(), np.uint8)
