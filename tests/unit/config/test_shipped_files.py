"""Every YAML of the project: it loads, it says what its name says, and its commands are right."""

from pathlib import Path

import pytest

from mindformers_codellama.config.check import global_batch, notes, static_findings
from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.sections import DynamicLossScale

PROJECT = Path(__file__).resolve().parents[3]
FILES = sorted((PROJECT / "configs").rglob("*.yaml"))
ASCEND = {f"codellama/{kind}_codellama_{size}_910b" for kind in ("run", "finetune", "predict") for size in ("7b", "13b", "34b", "70b")}
LLAMA2 = {f"llama2/predict_llama2_{size}_910b" for size in ("7b", "13b", "70b")}
TINY = {
    f"codellama/{name}"
    for name in (
        "pretrain_codellama_tiny",
        "finetune_codellama_tiny",
        "finetune_codellama_tiny_4p",
        "predict_codellama_tiny",
        "predict_codellama_tiny_2p",
    )
}
DEMO = {"codellama/pretrain_codellama_demo"}
LORA = {f"codellama/finetune_codellama_{size}_lora" for size in ("tiny", "demo", "7b")} | {"codellama/finetune_codellama_7b_lora_910b"}
MODES = {"run": "train", "pretrain": "train", "finetune": "finetune", "predict": "predict"}


def test_these_files_are_here_and_no_others():
    assert {str(path.relative_to(PROJECT / "configs").with_suffix("")) for path in FILES} == ASCEND | LLAMA2 | TINY | DEMO | LORA


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_does_what_its_name_says(path):
    run = read_run(path)
    kind, family, size = path.stem.removesuffix("_910b").removesuffix("_lora").removesuffix("_4p").removesuffix("_2p").split("_")
    assert run.run_mode == MODES[kind]
    assert run.trainer.model_name == f"{family}_{size}"
    assert run.context.device_target == ("Ascend" if path.stem.endswith("_910b") else "CPU")
    assert static_findings(run) == []
    unexpected = [note for note in notes(run) if "no weights are named" not in note]
    assert unexpected == [], "sizes, theta and vocabulary are the registry's"
    published, config = FAMILIES[run.trainer.model_name].config, run.model.config
    for field in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "rope_theta"):
        assert getattr(config, field) == getattr(published, field), field


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_begins_with_what_it_is_and_its_commands(path):
    head = path.read_text(encoding="utf-8").splitlines()
    comments = [line for line in head[: next(i for i, line in enumerate(head) if not line.startswith("#"))]]
    name = f"configs/{path.relative_to(PROJECT / 'configs')}"
    assert any(f"codellama check {name}" in line for line in comments)
    assert all(ranks_in(line) in (0, ranks_of(path)) for line in comments)
    assert "_tiny" in path.stem or "_demo" in path.stem or any("Not run on Ascend yet" in line or "not run" in line for line in comments)


def ranks_in(line: str) -> int:
    """N of `--ranks N`, 0 without."""
    return int(line.split("--ranks ")[1].split()[0]) if "--ranks" in line else 0


def ranks_of(path: Path) -> int:
    """Ranks the file asks for."""
    run = read_run(path)
    return run.parallel_config.ranks if run.use_parallel else 1


def test_34b_has_exactly_the_values_mindformers_shipped():
    """Values of configs/codellama/run_codellama_34b_910b.yaml of MindFormers dev, January 2024, typed out again here."""
    run = read_run(PROJECT / "configs/codellama/run_codellama_34b_910b.yaml")
    degrees = run.parallel_config
    assert (degrees.data_parallel, degrees.model_parallel, degrees.pipeline_stage, degrees.micro_batch_num) == (4, 4, 2, 96)
    assert (degrees.use_seq_parallel, degrees.vocab_emb_dp, degrees.gradient_aggregation_group) == (True, True, 4)
    assert (degrees.ranks, global_batch(run)) == (32, 384)
    assert (run.runner_config.epochs, run.runner_config.batch_size, run.runner_config.sink_mode, run.runner_config.sink_size) == (
        2,
        1,
        True,
        4,
    )
    optimizer, schedule = run.optimizer, run.lr_schedule
    assert (optimizer.type, optimizer.beta1, optimizer.beta2, optimizer.eps) == ("FP32StateAdamWeightDecay", 0.9, 0.95, 1e-8)
    assert (optimizer.weight_decay, schedule.type, schedule.learning_rate) == (0.0, "CosineWithWarmUpLR", 1e-5)
    assert (schedule.lr_end, schedule.warmup_ratio, schedule.total_steps) == (0.0, 0.03, -1)
    assert run.runner_wrapper.scale_sense == DynamicLossScale(loss_scale_value=65536, scale_factor=2, scale_window=1000)
    assert run.runner_wrapper.use_clip_grad
    assert (run.recompute_config.recompute, run.recompute_config.recompute_slice_activation) == (True, True)
    assert (run.parallel.parallel_mode, run.parallel.full_batch, run.parallel.enable_parallel_optimizer) == (1, True, True)
    config = run.model.config
    assert (config.seq_length, config.compute_dtype, config.softmax_compute_dtype, config.rotary_dtype) == (
        4096,
        "float16",
        "float16",
        "float16",
    )
    assert (config.layernorm_compute_dtype, config.param_init_dtype) == ("float32", "float16")
    assert (run.model.generation.max_length, run.model.generation.top_k, run.model.generation.do_sample) == (512, 3, False)
    assert run.checkpoint_monitor.prefix == "codellama_34b"
    assert run.checkpoint_monitor.save_checkpoint_steps == 1000
    assert (run.context.max_device_memory, run.context.max_call_depth, run.context.runtime_num_threads) == ("48GB", 10000, 1)
    predict = read_run(PROJECT / "configs/codellama/predict_codellama_34b_910b.yaml")
    assert (predict.parallel_config.model_parallel, predict.parallel_config.ranks, predict.model.use_past) == (8, 8, False)
    assert predict.context.ascend_config.precision_mode == "must_keep_origin_dtype"


def test_finetuning_has_the_pages_learning_rate_and_reads_labels():
    for path in FILES:
        if path.stem.startswith("finetune"):
            run = read_run(path)
            assert run.train_dataset.input_columns[:2] == ("input_ids", "labels")
            if path.stem.endswith("_910b") and "_lora" not in path.stem:
                assert (run.lr_schedule.learning_rate, run.optimizer.beta2, run.checkpoint_monitor.prefix) == (
                    5e-6,
                    0.999,
                    run.trainer.model_name,
                )


def test_the_tiny_files_describe_one_model():
    assert len({read_run(PROJECT / f"configs/{name}.yaml").model.config for name in TINY}) == 1
