"""Counts of weights and moments are those of a real network, and of the boxes of every rank."""

import math

import mindspore as ms
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_case import at, shipped

from mindformers_codellama.backends import mindspore_decoder
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.cuts import ModelLayout, OptimizerCut
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.planner import caches
from mindformers_codellama.planner.rank_work import step_rows
from mindformers_codellama.planner.weights import stage_weights
from mindformers_codellama.train.batch_plan import plan_batches
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate

ITEM = {ms.float32: 4, ms.float16: 2}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bytes_of_one_rank_are_those_of_the_network_and_its_optimizer(dtype):
    run = shipped("pretrain_codellama_tiny", f"model.model_config.param_init_type={dtype}")
    network = LlamaNetwork(run.model.config)
    parameters = network.trainable_params()
    update = AdamUpdate(parameters, AdamSettings())
    memory = at(run, "1x1x1").stages[0]
    assert memory.parameters == sum(p.size * ITEM[p.dtype] for p in parameters)
    assert memory.gradients == memory.parameters
    assert memory.optimizer == sum(p.size * ITEM[p.dtype] for p in (*update.adam_m, *update.adam_v))


@settings(max_examples=60, deadline=None)
@given(
    data=st.sampled_from([1, 2, 3, 4]),
    model=st.sampled_from([1, 2, 4]),
    stages=st.integers(1, 5),
    layers=st.integers(5, 9),
    cut=st.booleans(),
    threshold=st.sampled_from([None, 0, 4, 64]),
    bias=st.booleans(),
)
def test_counts_of_a_stage_are_the_boxes_of_any_of_its_ranks(data, model, stages, layers, cut, threshold, bias):
    config = ModelConfig(
        vocab_size=96, hidden_size=64, num_layers=layers, num_heads=8, num_kv_heads=4, intermediate_size=96, qkv_has_bias=bias
    )
    degrees = Layout(data_parallel=data, model_parallel=model, pipeline_stage=stages)
    optimizer = None if threshold is None else OptimizerCut(threshold=threshold)
    where = ModelLayout(config=config, layout=degrees, vocabulary_cut=cut, optimizer_cut=optimizer)
    whole = 0
    for rank in range(degrees.ranks):
        counted = stage_weights(where, degrees.place(rank).stage)
        weights = [box for name in where.shapes if (box := where.box(name, rank)) is not None]
        moments = [box for name in where.shapes for kind in ("adam_m.", "adam_v.") if (box := where.box(kind + name, rank)) is not None]
        assert counted.elements == sum(box.size for box in weights)
        assert counted.moments == sum(box.size for box in moments)
        assert counted.largest == max(box.size for box in weights)
        whole += counted.elements if model == data == 1 else 0
    if model == data == 1:
        assert whole == sum(math.prod(shape) for shape in where.shapes.values())


@pytest.mark.parametrize("needed", [1, 32, 33, 200, 256, 257, 1024, 1025, 3000])
@pytest.mark.parametrize("longest", [200, 256, 1000, 4096])
def test_cache_and_row_lengths_are_the_decoders(needed, longest):
    needed = min(needed, longest)
    met = range(1, needed + 1)
    assert caches.cache_lengths(needed, longest) == tuple(sorted({mindspore_decoder.cache_positions(n, longest) for n in met}))
    assert caches.row_lengths(needed, longest) == tuple(sorted({mindspore_decoder.row_positions(n, longest) for n in met}))


def test_chunks_are_the_decoders():
    assert (caches.SHORT_CHUNK, caches.LONG_CHUNK) == (mindspore_decoder.SHORT_CHUNK, mindspore_decoder.LONG_CHUNK)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("use_parallel=False", "runner_config.gradient_accumulation_steps=3"),
        ("parallel.full_batch=False",),
        ("micro_batch_interleave_num=2",),
        ("parallel_config.pipeline_stage=1", "runner_config.gradient_accumulation_steps=5"),
    ],
)
def test_rows_of_a_step_are_those_training_deals(changes):
    run = shipped("run_codellama_34b_910b", *changes)
    degrees, batches = run.parallel_config, plan_batches(run)
    if not run.use_parallel:
        ranks = (1, 1, 1)
    else:
        ranks = (degrees.data_parallel, degrees.model_parallel, degrees.pipeline_stage)
    rows = step_rows(run, ranks)
    assert (rows.rows, rows.micro_steps, rows.parts, rows.data_ranks) == (
        batches.rows,
        batches.micro_steps,
        batches.parts,
        batches.data_ranks,
    )
