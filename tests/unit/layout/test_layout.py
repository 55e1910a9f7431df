"""Ranks, boxes and cuts: every element of every tensor is held where it must be, and nowhere twice within a copy."""

import dataclasses

import numpy as np
import pytest

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.boxes import Box, whole
from mindformers_codellama.layout.cuts import ModelLayout, OptimizerCut
from mindformers_codellama.layout.ranks import Layout, stage_layers

TINY = ModelConfig(vocab_size=64, hidden_size=32, num_layers=5, num_heads=4, num_kv_heads=2, intermediate_size=48, seq_length=8)


def test_rank_numbers_are_those_of_mindspores_stages():
    layout = Layout(data_parallel=2, model_parallel=2, pipeline_stage=2)
    assert [tuple(layout.place(rank)) for rank in range(8)] == [(s, d, m) for s in (0, 1) for d in (0, 1) for m in (0, 1)]
    assert layout.group("model", 5) == (4, 5)
    assert layout.group("data", 5) == (5, 7)
    assert layout.group("stage", 5) == (1, 5)
    assert layout.groups("data") == [(0, 2), (1, 3), (4, 6), (5, 7)]
    assert all(layout.rank(*layout.place(rank)) == rank for rank in range(8))


@pytest.mark.parametrize(
    ("layers", "stages", "counts"), [(48, 2, [24, 24]), (3, 2, [2, 1]), (5, 4, [1, 1, 1, 2]), (7, 4, [2, 2, 2, 1]), (2, 2, [1, 1])]
)
def test_layers_of_stages_follow_mindformers_rule(layers, stages, counts):
    found = stage_layers(layers, stages)
    assert [len(part) for part in found] == counts
    assert [i for part in found for i in part] == list(range(layers))


def test_an_offset_per_stage_moves_layers():
    assert [len(part) for part in stage_layers(5, 2, (1, 0))] == [3, 2]


@pytest.mark.parametrize("degrees", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2), (4, 2, 1)])
@pytest.mark.parametrize("vocabulary_cut", [False, True])
def test_every_element_is_held_once_per_copy(degrees, vocabulary_cut):
    layout = Layout(data_parallel=degrees[0], model_parallel=degrees[1], pipeline_stage=degrees[2])
    model = ModelLayout(config=TINY, layout=layout, vocabulary_cut=vocabulary_cut, optimizer_cut=OptimizerCut(threshold=0))
    for name, shape in model.shapes.items():
        for tensor in (name, f"adam_m.{name}"):
            held = np.zeros(shape, int)
            for rank in range(layout.ranks):
                box = model.box(tensor, rank)
                if box is not None:
                    held[box.slices] += 1
            cut_by_model = model.model_dim(name) is not None
            cut_by_data = tensor != name and model.is_moment_cut(name)
            copies = (1 if cut_by_model else layout.model_parallel) * (1 if cut_by_data else layout.data_parallel)
            assert (held == copies).all(), (tensor, copies)


def test_small_moments_stay_whole():
    model = ModelLayout(config=TINY, layout=Layout(data_parallel=2), optimizer_cut=OptimizerCut(threshold=64))
    assert not any(model.is_moment_cut(name) for name in model.shapes)
    all_cut = dataclasses.replace(model, optimizer_cut=OptimizerCut(threshold=0))
    assert all(all_cut.is_moment_cut(name) for name in model.shapes)


def test_a_vocabulary_that_does_not_divide_stays_whole():
    config = dataclasses.replace(TINY, vocab_size=63)
    assert not ModelLayout(config=config, layout=Layout(model_parallel=2), vocabulary_cut=True).cuts_vocabulary


def test_boxes_meet_and_count_from_each_other():
    box = whole((8, 6)).part(0, 1, 2)
    assert box == Box((4, 0), (8, 6))
    assert box.common(Box((0, 2), (6, 4))) == Box((4, 2), (6, 4))
    assert box.common(Box((0, 0), (4, 6))) is None
    assert Box((4, 2), (6, 4)).inside(box) == Box((0, 2), (2, 4))
    assert whole(()).size == 1
