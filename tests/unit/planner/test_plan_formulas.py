"""The formulas beside lists, schedules and rings that are carried out."""

import math

import pytest
from plan_case import at, shipped, without_recompute

from mindformers_codellama.layout.cuts import run_model_layout
from mindformers_codellama.planner.activations import block_kept, head_kept, pipeline_boundary
from mindformers_codellama.planner.index_tables import forward_tables
from mindformers_codellama.planner.kernel_activations import kernel_block_kept, kernel_blocks_kept
from mindformers_codellama.planner.rank_work import rank_work
from mindformers_codellama.planner.step_cost import bubble_share
from mindformers_codellama.planner.traffic import all_reduce, gather
from mindformers_codellama.train.pipeline_schedule import one_forward_one_backward


def tiny_work(*overrides, stage=0, rows=3, length=34):
    sizes = ("hidden_size=88", "num_layers=1", "num_heads=4", "n_kv_heads=2", "intermediate_size=202", "vocab_size=1009")
    settings = ["kernels=off", *(f"model.model_config.{size}" for size in sizes), *overrides]
    run = shipped("pretrain_codellama_tiny", *settings)
    return rank_work(run, run_model_layout(run), stage, rows=rows, queries=length, keys=length)


def test_what_a_block_keeps_is_the_list_of_tensors_its_backward_reads():
    # B 3, S 34, D 88, N 4, K 2, H 22, F 202: the tensors alive between forward and backward of the compiled graph
    stream = [(3, 34, 88)] * 6  # input, normalised input and output of two norms
    queries = [(3, 34, 4, 22), (3, 4, 34, 22), (3, 34, 88)]  # before and after the rotation, mixed values
    keys = [(3, 34, 2, 22), (3, 2, 34, 22), (3, 2, 34, 22)]  # keys before and after the rotation, values
    scores = [(3, 4, 34, 34)]
    inner = [(3, 34, 202)] * 5  # w1 x, its sigmoid, silu, w3 x, the product
    elements = sum(math.prod(shape) for shape in (*stream, *queries, *keys, *scores, *inner))
    assert block_kept(tiny_work()) == 4 * elements


def test_the_head_keeps_its_norm_and_three_tables_of_the_vocabulary():
    assert head_kept(tiny_work()) == 4 * (3 * 3 * 34 * 88 + 3 * 102 * 1009)


def test_index_tables_are_those_found_in_a_training_step():
    # 4 layers, B 4, S 256, D 256, N = K = 4: measured 64 + 4 pairs of 2 MiB, 8 pairs of 8 MiB, and 32 tables of 2 MiB
    work = tiny_work(
        "model.model_config.hidden_size=256",
        "model.model_config.num_layers=4",
        "model.model_config.n_kv_heads=4",
        rows=4,
        length=256,
    )
    assert 2 * forward_tables(work) == (2 * 68 * 2 + 2 * 8 * 8 + 32 * 2) * 2**20


def test_half_precision_keeps_casts_for_the_norm_in_float32():
    half = tiny_work("model.model_config.compute_dtype=float16", "context.device_target=Ascend")
    stream, fused = 3 * 34 * 88, 2 + 4 + 2  # input in float16, its float32 cast, what enters the matrices
    rest = block_kept(half) - 2 * fused * stream
    assert rest < block_kept(tiny_work()) - 2 * 12 * stream


KERNELS = ("kernels=auto", "model.model_config.param_init_type=float32")


@pytest.mark.parametrize(("compute", "size"), [("float32", 4), ("bfloat16", 2)])
def test_a_block_of_the_kernels_keeps_what_its_backward_reads(compute, size):
    # B 3, S 34, D 88, N 4, K 2, H 22, F 202: inputs and outputs of the Cells of model.kernel_block
    work = tiny_work(*KERNELS, f"model.model_config.compute_dtype={compute}")
    stream = 2 * 3 * 34 * 88  # before attention, before the feed-forward
    attention = 2 * 3 * 34 * 4 * 22 + 2 * 3 * 34 * 2 * 22  # queries and mixed values, keys and values
    inner = 2 * 3 * 34 * 202  # both halves of the gate
    assert work.kernels
    assert kernel_block_kept(work) == 4 * stream + size * (attention + inner) + 4 * 3 * 4 * 34
    remade = {4: -(-work.layers // 3), 2: work.layers}[size]  # blocks that make the second one again
    assert kernel_blocks_kept(work) == work.layers * kernel_block_kept(work) - remade * 4 * stream // 2
    assert forward_tables(work) == 0


@pytest.mark.parametrize("override", ["kernels=off", "model.model_config.compute_dtype=float16", "context.device_target=Ascend"])
def test_runs_the_kernels_do_not_train_are_planned_in_plain_operators(override):
    assert not tiny_work(*KERNELS, override).kernels


@pytest.mark.parametrize(("stages", "micro"), [(2, 2), (3, 5), (4, 4), (4, 9)])
def test_micro_batches_in_flight_are_those_of_the_schedule(stages, micro):
    run = shipped("run_codellama_34b_910b", f"parallel_config.pipeline_stage={stages}", f"parallel_config.micro_batch_num={micro}")
    where = run_model_layout(run)
    for stage in range(1, stages):
        held = most = 0
        for action in one_forward_one_backward(stage, stages, micro):
            held += (action.kind == "receive_forward") - (action.kind == "backward")
            most = max(most, held)
        work = rank_work(run, where, stage, rows=1, queries=4096, keys=4096)
        others = 2 * work.boundary + (0 if stage == stages - 1 else 12 * work.stream)
        assert pipeline_boundary(work, micro) == most * work.boundary + others


@pytest.mark.parametrize(("stages", "micro"), [(1, 3), (2, 2), (4, 4), (4, 16)])
def test_the_bubble_is_the_idle_share_of_the_schedule_played_out(stages, micro):
    cost = {"forward": 1, "backward": 2}
    schedules = [[a for a in one_forward_one_backward(s, stages, micro) if a.kind in cost] for s in range(stages)]
    done, clock, place = {}, [0] * stages, [0] * stages
    while any(place[s] < len(schedules[s]) for s in range(stages)):
        for s in range(stages):
            if place[s] == len(schedules[s]):
                continue
            action = schedules[s][place[s]]
            before = (s - 1 if action.kind == "forward" else s + 1, action)
            if 0 <= before[0] < stages and before not in done:
                continue
            clock[s] = max(clock[s], done.get(before, 0)) + cost[action.kind]
            done[s, action] = clock[s]
            place[s] += 1
    assert 1 - 3 * micro / max(clock) == pytest.approx(bubble_share(stages, micro))


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_bytes_of_an_all_reduce_are_those_of_a_ring_carried_out(ranks):
    chunk = 5
    values = [[float(rank * 10 + i) for i in range(ranks)] for rank in range(ranks)]
    expected, sent = [sum(column) for column in zip(*values, strict=True)], [0] * ranks
    for turn in range(ranks - 1):  # scatter the sums
        moving = [(rank, (rank - turn) % ranks, values[rank][(rank - turn) % ranks]) for rank in range(ranks)]
        for rank, place, value in moving:
            values[(rank + 1) % ranks][place] += value
            sent[rank] += chunk
    scattered = sent[0]
    for turn in range(ranks - 1):  # gather them
        moving = [(rank, (rank + 1 - turn) % ranks, values[rank][(rank + 1 - turn) % ranks]) for rank in range(ranks)]
        for rank, place, value in moving:
            values[(rank + 1) % ranks][place] = value
            sent[rank] += chunk
    assert values == [expected] * ranks
    assert set(sent) == {all_reduce(ranks * chunk, ranks)}
    assert scattered == gather(ranks * chunk, ranks, by_adding=False)


def test_model_axis_sends_four_all_reduces_per_layer_and_micro_batch():
    run = without_recompute(shipped("run_codellama_34b_910b", "parallel_config.use_seq_parallel=False"))
    found = at(run, "1x8x1")
    (traffic,) = [item for item in found.traffic[0] if item.axis == "model"]
    micro = found.rows.micro_steps
    assert traffic.calls == micro * 48 * 4
    assert traffic.bytes == micro * 48 * 4 * all_reduce(2 * 4096 * 8192, 8)


def test_data_axis_sends_gradients_and_rows_once():
    whole = at(shipped("run_codellama_7b_910b", "parallel.enable_parallel_optimizer=False"), "8x1x1")
    cut = at(shipped("run_codellama_7b_910b"), "8x1x1")
    (adding,) = whole.traffic[0]
    assert adding.bytes == all_reduce(4 * whole.stages[0].weights.elements, 8)
    assert sum(item.bytes for item in cut.traffic[0]) == pytest.approx(adding.bytes, rel=1e-6)
