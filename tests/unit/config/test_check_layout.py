"""Degrees: what they must divide, and which ways of working together are refused."""

import re

import pytest

from mindformers_codellama.config.check import notes, run_findings
from mindformers_codellama.config.read import read_run

MODEL = (
    "context: {device_target: CPU}\nuse_parallel: True\n"
    "model: {model_config: {hidden_size: 96, num_layers: 5, num_heads: 12, n_kv_heads: 6, vocab_size: 50, intermediate_size: 96, "
    "seq_length: 30, compute_dtype: float32%s}}\n"
)


@pytest.fixture
def found(tmp_path):
    def find(lines: str, model: str = "", ranks: int | None = None) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(MODEL % model + lines)
        try:
            return "\n".join(str(error) for error in run_findings(read_run(path), ranks=ranks))
        except Exception as error:
            return str(error)

    return find


def test_kv_heads_that_do_not_divide_name_the_degrees_that_do(found):
    assert "model_parallel: got 4, must divide n_kv_heads (6). Fix: write one of 1, 2, 3, 6." in found(
        "parallel_config: {model_parallel: 4}"
    )


def test_sequence_parallel_needs_a_length_that_divides(found):
    text = found("parallel_config: {model_parallel: 6, use_seq_parallel: True}", ", pad_token_id: 0")
    assert "use_seq_parallel" not in text  # 30 positions over 6 ranks
    text = found("parallel_config: {model_parallel: 3, use_seq_parallel: True}\nmodel: {model_config: {seq_length: 31}}")
    assert (
        "use_seq_parallel" in found("parallel_config: {model_parallel: 2, use_seq_parallel: True}", ", max_position_embedding: 31") or text
    )


@pytest.mark.parametrize("mode", [2, 3, "auto_parallel", "hybrid_parallel"])
def test_modes_that_search_or_cut_by_hand_are_refused(found, mode):
    assert "parallel.parallel_mode" in found(f"parallel: {{parallel_mode: {mode}}}")


def test_copies_only_do_not_ask_for_heads_that_divide(found):
    assert "model_parallel" not in found("parallel: {parallel_mode: 0}\nparallel_config: {model_parallel: 4}")


@pytest.mark.parametrize(("offset", "fine"), [("[1, 0]", True), ("[0, 1]", True), ("[0, 0]", False), ("[1]", False), ("[2, 0]", False)])
def test_layers_per_stage_must_add_up(found, offset, fine):
    text = found("parallel_config: {pipeline_stage: 2, micro_batch_num: 2}", f", offset: {offset}")
    assert ("model.model_config.offset" in text) is not fine


def test_the_product_of_the_degrees_is_the_number_of_ranks(found):
    assert "2 * 3 * 1 = 6, but there are 4 ranks" in found("parallel_config: {data_parallel: 2, model_parallel: 3}", ranks=4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("parallel: {gradients_mean: True}", "parallel.gradients_mean: True would divide .* write False, or parallel_mode: 0"),
        ("parallel: {enable_alltoall: True}", "parallel.enable_alltoall: True asks for a collective that nothing here uses"),
        (
            "parallel: {parallel_optimizer_config: {gradient_accumulation_shard: True}}",
            "gradient_accumulation_shard: True, but accumulated gradients are whole on every rank",
        ),
        (
            "parallel_config: {data_parallel: 4}\n"
            "parallel: {enable_parallel_optimizer: True, parallel_optimizer_config: {optimizer_weight_shard_size: 2}}",
            "optimizer_weight_shard_size: got 2, but moments are cut over all 4 data-parallel ranks",
        ),
        ("recompute_config: {parallel_optimizer_comm_recompute: True}", "parallel_optimizer_comm_recompute: True, but weights are whole"),
    ],
)
def test_what_training_over_ranks_does_not_have_is_refused_with_the_reason(found, lines, message):
    assert re.search(message, found(lines))
    assert not re.search(message, found(lines + "\nrun_mode: predict"))
    assert not re.search(message, found(lines + "\nuse_parallel: False"))


def test_averaged_gradients_are_for_data_parallel_mode(found):
    assert "gradients_mean" not in found("parallel: {gradients_mean: True, parallel_mode: 0}")


def test_accumulation_in_a_pipeline_is_noted(tmp_path):
    path = tmp_path / "run.yaml"
    lines = "parallel_config: {pipeline_stage: 2, micro_batch_num: 2}\nrunner_config: {gradient_accumulation_steps: 3}"
    path.write_text(MODEL % "" + lines)
    assert any("gradient_accumulation_steps: counts as 1 in a pipeline" in note for note in notes(read_run(path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["parallel_config.optimizer_shard=True"], "parallel_config.optimizer_shard: has no effect, as in MindFormers"),
        (["model.model_config.parallel_optimizer=True"], "model.model_config.parallel_optimizer: has no effect, as in MindFormers"),
        (["context.ascend_config.parallel_speed_up_json_path=a.json"], "parallel_speed_up_json_path: is not read"),
        (["parallel.full_batch=False", "micro_batch_interleave_num=2"], "full_batch: False deals rows in turn"),
    ],
)
def test_what_has_no_effect_or_another_one_over_ranks_is_noted(tmp_path, settings, message):
    path = tmp_path / "run.yaml"
    path.write_text(MODEL % "")
    assert any(message in note for note in notes(read_run(path, overrides=settings)))
    assert not any(message in note for note in notes(read_run(path)))
