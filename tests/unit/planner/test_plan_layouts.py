"""Which layouts fit, in what order, and what must grow or shrink with what."""

from dataclasses import replace

import pytest
from plan_case import at, layout, plan, shipped, without_recompute

from mindformers_codellama.config.check_layout import layout_findings
from mindformers_codellama.errors import ClusterError
from mindformers_codellama.planner.candidates import deal
from mindformers_codellama.planner.devices import GIB, Servers, parse_memory
from mindformers_codellama.planner.plan import needed, search
from mindformers_codellama.planner.rank_work import TRAINING_MODES


# what the published page of the 34B model says of Atlas 800T A2 (64 GB each)
def test_prediction_with_34b_needs_at_least_two_devices_of_64_gb():
    run = shipped("predict_codellama_34b_910b")
    one, two = plan(run, 1), plan(run, 2)
    assert not one.chosen.fits
    assert one.fits_from == 2
    assert two.chosen.fits


def test_prediction_with_34b_on_one_device_fails_by_its_weights_alone():
    (stage,) = plan(shipped("predict_codellama_34b_910b"), 1).chosen.stages
    assert stage.parameters > 64 * GIB * 15 / 16


def test_full_finetuning_of_34b_needs_at_least_sixteen_devices():
    run = shipped("finetune_codellama_34b_910b")
    eight, sixteen = plan(run, 8), plan(run, 16)
    assert not eight.chosen.fits
    assert not eight.alternatives
    assert eight.fits_from == 16
    assert sixteen.chosen.fits
    assert sixteen.chosen.changes == ()  # not by switches the file does not have


def test_the_degrees_the_file_has_for_thirty_two_devices_fit():
    found = plan(shipped("finetune_codellama_34b_910b"), 32)
    assert (str(found.chosen.layout), found.origin) == ("4x4x2", "file")
    assert found.chosen.fits
    assert found.chosen.peak < 0.9 * 60 * GIB
    assert any(other.peak < 0.5 * 60 * GIB for other in found.alternatives)


def test_eight_devices_fail_by_sixteen_bytes_per_weight_whatever_the_activations():
    # float16 weight and gradient, float32 accumulated gradient, two float32 moments
    (worst,) = [max(plan(shipped("finetune_codellama_34b_910b"), 8).chosen.stages, key=lambda stage: stage.peak)]
    state = worst.parameters + worst.gradients + worst.optimizer + worst.lasting["accumulated gradients"]
    assert state == pytest.approx(16 * worst.weights.elements, rel=1e-3)
    assert state > 60 * GIB


@pytest.mark.parametrize("name", ["run_codellama_7b_910b", "run_codellama_34b_910b", "run_codellama_70b_910b"])
@pytest.mark.parametrize("sequence", [True, False])
def test_more_model_parallel_never_needs_more_memory(name, sequence):
    run = without_recompute(shipped(name, "parallel_config.vocab_emb_dp=False", f"parallel_config.use_seq_parallel={sequence}"))
    for data, stages in ((1, 1), (2, 1), (1, 2), (2, 4)):
        peaks = [at(run, f"{data}x{model}x{stages}").peak for model in (1, 2, 4, 8)]
        assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("model.model_config.seq_length", (1024, 2048, 4096, 8192)),
        ("model.model_config.vocab_size", (16000, 32000, 64000)),
        ("model.model_config.num_layers", (16, 32, 48)),
        ("model.model_config.intermediate_size", (8192, 16384, 22016)),
    ],
)
@pytest.mark.parametrize("text", ["1x1x1", "2x4x1", "2x2x2"])
def test_a_larger_model_or_longer_rows_need_more(key, values, text):
    plans = [at(shipped("run_codellama_34b_910b", f"{key}={value}"), text) for value in values]
    peaks, kept = [found.peak for found in plans], [found.stages[-1].activations for found in plans]
    assert peaks == sorted(peaks)
    assert kept == sorted(kept)
    assert (peaks[0], kept[0]) < (peaks[-1], kept[-1])


def test_more_rows_per_micro_batch_need_more_activations():
    sizes = [at(shipped("run_codellama_7b_910b", f"runner_config.batch_size={rows}"), "8x1x1").stages[0].activations for rows in (1, 2, 4)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize(
    ("switch", "value", "text", "part"),
    [
        ("parallel.enable_parallel_optimizer", True, "4x2x1", "optimizer"),
        ("recompute_config.recompute", True, "8x1x1", "activations"),
        ("recompute_config.recompute", True, "2x4x1", "activations"),
        ("parallel_config.use_seq_parallel", True, "1x8x1", "activations"),
        ("parallel_config.vocab_emb_dp", False, "1x8x1", "parameters"),
    ],
)
def test_a_switch_that_saves_saves(switch, value, text, part):
    other = not value
    runs = [shipped("run_codellama_7b_910b", "recompute_config.recompute=False", f"{switch}={chosen}") for chosen in (value, other)]
    saving, spending = (getattr(at(run, text).stages[0], part) for run in runs)
    assert saving < spending


def test_recompute_costs_memory_on_the_cpu():
    run = shipped("pretrain_codellama_tiny", "kernels=off")
    again = replace(run, recompute_config=replace(run.recompute_config, recompute=True))
    assert at(again, "1x1x1").stages[0].lasting["index tables"] > at(run, "1x1x1").stages[0].lasting["index tables"]


def test_a_gathered_stream_enters_a_layer_whole_so_sequence_parallel_keeps_more_than_its_share():
    # y after the norm is B S D on every rank even when the stream is cut
    run = without_recompute(shipped("run_codellama_34b_910b"))
    cut = at(run, "1x8x1").stages[0].activations
    whole = at(replace(run, parallel_config=replace(run.parallel_config, use_seq_parallel=False)), "1x8x1").stages[0].activations
    assert whole / 8 < cut < whole


def test_search_plans_each_possible_layout_once_and_keeps_the_rows_of_a_step():
    run = shipped("run_codellama_70b_910b")
    found = search(run, 1024, device_memory=64 * GIB, servers=Servers.of_size(1024, 8))
    assert {item.rows.step_rows for item in found} == {128}
    assert len({str(item.layout) for item in found}) == len(found) <= 4 * 7  # model 1, 2, 4, 8; stages 1 to 64
    assert not any(layout_findings(item.run) for item in found)
    assert {item.layout.ranks for item in found} == {1024}


def test_roomy_layouts_come_first_and_are_sorted_by_seconds():
    found = [item for item in search(shipped("finetune_codellama_34b_910b"), 32, device_memory=64 * GIB, servers=Servers.of_size(32, 8))]
    rooms = [all(needed(stage, "Ascend", 64 * GIB) <= 0.9 * 64 * GIB for stage in item.stages) for item in found]
    assert rooms == sorted(rooms, reverse=True)
    for room in (True, False):
        seconds = [item.cost.seconds for item, roomy in zip(found, rooms, strict=True) if roomy is room]
        assert seconds == sorted(seconds)


def test_a_layout_that_is_too_large_gets_the_first_switches_that_make_it_fit():
    run = shipped("run_codellama_7b_910b")
    assert not plan(run, 8).chosen.fits
    found = {str(item.layout): item for item in search(run, 8, device_memory=64 * GIB, servers=Servers.of_size(8, 8))}
    assert found["8x1x1"].changes == ("parallel_config.gradient_aggregation_group: 16",)
    assert found["8x1x1"].fits
    assert found["1x8x1"].changes == ()


def test_a_model_axis_over_two_servers_is_slower_and_noted():
    run = shipped("run_codellama_34b_910b")
    near, far = (plan(run, 32, per_server=size) for size in (8, 2))
    assert near.chosen.cost.seconds < far.chosen.cost.seconds
    assert any("several servers" in note for note in far.notes)
    assert not any("several servers" in note for note in near.notes)


@pytest.mark.parametrize(
    ("total", "data", "unit", "most", "least", "expected"),
    [
        (384, 4, 1, 1, 2, (1, 96)),
        (8, 4, 1, 8, 1, (2, 1)),
        (12, 2, 1, 4, 1, (3, 2)),
        (12, 5, 1, 4, 1, None),
        (8, 8, 1, 4, 2, None),
        (16, 2, 4, 1, 2, (1, 2)),
    ],
)
def test_rows_are_dealt_without_rest(total, data, unit, most, least, expected):
    assert deal(total, data, unit=unit, most=most, least_micro=least) == expected


def test_a_layout_of_another_number_of_ranks_is_refused():
    with pytest.raises(ClusterError, match="--layout: 2x2x2 has 8 ranks, there are 16"):
        plan(shipped("run_codellama_34b_910b"), 16, asked="2x2x2")


def test_a_layout_the_rows_cannot_be_dealt_over_is_refused():
    with pytest.raises(ClusterError, match="8 rows per step cannot be dealt over 16 data ranks"):
        plan(shipped("run_codellama_7b_910b"), 16, asked="16x1x1")


def test_a_number_of_ranks_no_layout_has_is_refused_with_the_reason():
    reason = r"no layout of this model has 37 ranks: model_parallel must divide n_kv_heads \(32\), pipeline_stage at most num_layers \(32\)"
    with pytest.raises(ClusterError, match=reason):
        plan(shipped("run_codellama_7b_910b"), 37)


def test_every_mode_is_planned():
    for mode in ("train", "finetune", "eval", "predict", "export"):
        run = replace(shipped("run_codellama_7b_910b", "use_parallel=False"), run_mode=mode)
        (stage,) = at(run, "1x1x1").stages
        assert (stage.optimizer > 0) == (mode in TRAINING_MODES)
        assert stage.activations > 0
        assert stage.peak >= stage.parameters


def test_a_cache_of_several_lengths_is_counted_whole():
    run = shipped("predict_codellama_7b_910b", "model.model_config.use_past=True", "model.model_config.max_decode_length=2000")
    (stage,) = at(run, "1x1x1").stages
    assert stage.kv_cache == 2 * 32 * 32 * 128 * 2 * (256 + 1024 + 2048)
    half = at(run, "1x2x1").stages[0]
    assert 2 * half.kv_cache == stage.kv_cache


@pytest.mark.parametrize(("text", "size"), [("64GB", 64 * GIB), ("64", 64 * GIB), ("65536MB", 64 * GIB), ("57.5gib", int(57.5 * GIB))])
def test_memory_sizes_are_read(text, size):
    assert parse_memory(text, where="--device-memory") == size


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "0", "64XB", "nan", "inf"])
def test_wrong_memory_sizes_are_refused(text):
    with pytest.raises(Exception, match="--device-memory: got .* Fix: write a size such as 64GB"):
        parse_memory(text, where="--device-memory")


def test_layout_words_are_what_the_helpers_take():
    assert str(layout("2x4x8")) == "2x4x8"
