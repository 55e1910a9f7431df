"""Parts of a network: what a stage holds, what it hands on, and that one rank has nothing of it."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.part import WHOLE, NetworkPart, network_part, stage_tensor, sums_gradient_over_model
from mindformers_codellama.parallel import regions
from mindformers_codellama.parallel.comm import Axis, Comm
from mindformers_codellama.pipelines.ranks import degree_findings

CONFIG = ModelConfig(
    vocab_size=48,
    hidden_size=16,
    num_layers=5,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=24,
    seq_length=8,
    max_position=8,
    compute_dtype="float32",
    layernorm_compute_dtype="float32",
    softmax_compute_dtype="float32",
    rotary_dtype="float32",
    param_init_dtype="float32",
)


def comm_of(layout: Layout, rank: int) -> Comm:
    """A rank that has joined nothing."""
    place = layout.place(rank)
    axes = {"data": (layout.data_parallel, place.data), "model": (layout.model_parallel, place.model)}
    axes |= {"stage": (layout.pipeline_stage, place.stage)}
    return Comm(layout=layout, rank=rank, **{name: Axis(*numbers, group=name) for name, numbers in axes.items()})


@pytest.mark.parametrize(
    ("stages", "layers"), [(2, 3), pytest.param(3, 5, marks=pytest.mark.slow), pytest.param(5, 5, marks=pytest.mark.slow)]
)
def test_stages_one_after_the_other_are_the_whole_network(both_paths, stages, layers):
    config = dataclasses.replace(CONFIG, num_layers=layers)
    layout = Layout(pipeline_stage=stages)
    model_layout = ModelLayout(config=config, layout=layout)
    whole = LlamaNetwork(config)
    init_parameters(whole, 1, std=0.2)
    rng = np.random.default_rng(2)
    ids = ms.Tensor(rng.integers(1, 48, (2, 8)).astype(np.int32))
    positions = ms.Tensor(np.array([[0, 1, 2, 0, 1, 2, 3, 4]] * 2, np.int32))
    segments = ms.Tensor(np.array([[0, 0, 0, 1, 1, 1, 1, 1]] * 2, np.int32))
    hidden, names = None, []
    for rank in range(stages):
        part = network_part(model_layout, comm_of(layout, rank), sequence=True)
        stage = LlamaNetwork(config, part)
        init_parameters(stage, 1, std=0.2, model_layout=model_layout, rank=rank)
        own = [name for name, _ in stage.parameters_and_names()]
        assert own == model_layout.names(rank)
        names += own
        hidden = stage.run_stage(ids, hidden, positions, segments)
        if not part.last:
            assert (hidden.shape, hidden.dtype) == stage_tensor(CONFIG, part, 2, 8)
    assert names == [name for name, _ in whole.parameters_and_names()]
    assert hidden.asnumpy().tobytes() == whole(ids, positions, segments).asnumpy().tobytes()


def test_one_rank_has_no_region_and_every_weight():
    network = LlamaNetwork(CONFIG)
    kinds = {type(cell) for _, cell in network.cells_and_names()}
    assert not kinds & {kind for kind in vars(regions).values() if isinstance(kind, type)}
    assert {name: parameter.shape for name, parameter in network.parameters_and_names()} == parameter_shapes(CONFIG)


def test_recompute_passes_over_foreign_blocks():
    stage = LlamaNetwork(CONFIG, NetworkPart(layers=range(2, 4), first=False, last=False))
    stage.recompute_blocks()
    stage.recompute_blocks([0, 3, 4])
    assert [type(cell).__name__ for cell in stage.model.layers] == ["Identity"] * 2 + ["DecoderBlock"] * 2 + ["Identity"]


def test_a_stage_hands_on_its_own_positions_when_they_are_cut():
    cut = NetworkPart(axis=Axis(4, 1, "m"), sequence=True)
    assert stage_tensor(CONFIG, cut, 3, 8) == ((3, 2, 16), ms.float32)
    assert stage_tensor(CONFIG, WHOLE, 3, 8) == ((3, 8, 16), ms.float32)
    with pytest.raises(AssertionError):
        stage_tensor(CONFIG, cut, 3, 6)


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.booleans(), st.booleans(), st.data())
def test_a_part_follows_the_table_of_cuts(model, stages, sequence, cut, data):
    layout = Layout(model_parallel=model, pipeline_stage=stages, data_parallel=2)
    rank = data.draw(st.integers(0, layout.ranks - 1))
    model_layout = ModelLayout(config=CONFIG, layout=layout, vocabulary_cut=cut)
    part = network_part(model_layout, comm_of(layout, rank), sequence=sequence)
    assert part.cut_vocabulary == (cut and model > 1)
    assert part.sequence == (sequence and model > 1)
    assert part.first == (model_layout.box("model.tok_embeddings.embedding_weight", rank) is not None)
    assert part.last == (model_layout.box("lm_head.weight", rank) is not None)
    for layer in range(CONFIG.num_layers):
        held = model_layout.box(f"model.layers.{layer}.attention.wq.weight", rank) is not None
        assert (layer in part.own_layers(CONFIG)) == held


def test_only_what_works_on_single_positions_has_a_partial_gradient():
    part = NetworkPart(axis=Axis(2, 0, "m"), sequence=True)
    partial = [name for name in parameter_shapes(CONFIG) if sums_gradient_over_model(name, part)]
    assert partial == [name for name in parameter_shapes(CONFIG) if "norm" in name]
    assert not any(sums_gradient_over_model(name, WHOLE) for name in parameter_shapes(CONFIG))


def test_degrees_that_cannot_generate_are_refused_with_the_possible_ones():
    config = FAMILIES["codellama_34b"].config
    assert degree_findings(config, Layout(model_parallel=8)) == []
    (found,) = degree_findings(config, Layout(model_parallel=16))
    assert str(found) == (
        "parallel_config.model_parallel: got 16, must divide n_kv_heads (8) and intermediate_size (22016). Fix: write one of 1, 2, 4, 8."
    )
    (found,) = degree_findings(config, Layout(pipeline_stage=2))
    assert "generation has no pipeline. Fix: write 1 and raise model_parallel." in str(found)
