"""`pet_config`: which layers an adapter has, and what is refused."""

import json
import re
import shlex
from pathlib import Path

import pytest

from mindformers_codellama.cli.main import build_parser, main, parse
from mindformers_codellama.config.check import notes, run_findings
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.sections_pet import PetSection
from mindformers_codellama.errors import CodeLlamaError

TEXT = """
run_mode: finetune
load_checkpoint: base.ckpt
train_dataset: {data_loader: {dataset_dir: d}}
context: {device_target: CPU}
model:
  model_config: {compute_dtype: float32, param_init_type: float32, num_layers: 2, checkpoint_name_or_path: '', pet_config: PET}
"""
PET = "{pet_type: lora, lora_rank: 4, target_modules: '.*wq|.*wv'}"


def read(tmp_path, pet=PET, *overrides):
    (tmp_path / "run.yaml").write_text(TEXT.replace("PET", pet))
    return read_run(tmp_path / "run.yaml", overrides=overrides)


@pytest.mark.parametrize(
    ("target", "exclude", "found"),
    [
        ("wq", (), ["0.attention.wq", "1.attention.wq"]),
        (".*wq|.*w2", (), ["0.attention.wq", "0.feed_forward.w2", "1.attention.wq", "1.feed_forward.w2"]),
        ("w[13]", ("0",), ["1.feed_forward.w1", "1.feed_forward.w3"]),
        (".*", ("attention", "1"), ["0.feed_forward.w1", "0.feed_forward.w2", "0.feed_forward.w3"]),
    ],
)
def test_names_are_matched_from_their_beginning_as_mindformers_does(target, exclude, found):
    section = PetSection(target_modules=target, exclude_layers=exclude)
    assert section.modules(2) == tuple(f"model.layers.{name}" for name in found)


def test_a_whole_section_runs(tmp_path):
    run = read(tmp_path)
    assert run_findings(run) == []
    assert run.model.model_config.pet_config.scale == 4.0


REFUSED = {
    "{pet_type: lora, lora_rnak: 4, target_modules: wq}": r"lora_rnak: unknown key. Fix: did you mean .*lora_rank\?",
    "{pet_type: adalora, target_modules: wq}": "pet_type: got 'adalora'",
    "{target_modules: q_proj}": r"'q_proj', which matches no linear layer; there are .* wq \(q_proj\), wk \(k_proj\)",
    "{pet_type: lora}": "got '', which matches no linear layer",
    "{target_modules: '*wq'}": r"target_modules: got '\*wq', no regular expression",
    "{target_modules: wq, lora_rank: 0}": "lora_rank: got 0, must be at least 1",
    "{target_modules: wq, lora_dropout: 1.0}": "lora_dropout: got 1.0, must be at least 0 and at most 0.99",
    "{target_modules: wq, lora_alpha: 0}": "lora_alpha: got 0.0, must be above 0",
    "{target_modules: wq, lora_a_init: xavier}": "lora_a_init: got 'xavier'",
    "{target_modules: wq, freeze_exclude: ['.*norm']}": "freeze_exclude: got .* all weights of the model are frozen",
}


@pytest.mark.parametrize("pet", REFUSED)
def test_a_wrong_section_is_refused_with_what_to_write(tmp_path, pet):
    with pytest.raises(CodeLlamaError, match=REFUSED[pet]):
        read(tmp_path, pet)


FOUND = {
    "use_parallel=True parallel_config.data_parallel=2": "lora_dropout: got 0.01; a step of several ranks",
    "use_parallel=True parallel_config.model_parallel=2 parallel_config.data_parallel=2": (
        "asks for model_parallel 2, but A and B are not cut: .* Fix: write data_parallel: 4, model_parallel: 1, pipeline_stage: 1"
    ),
    "use_parallel=True parallel_config.pipeline_stage=2 parallel_config.micro_batch_num=2": "asks for pipeline_stage 2, but A and B",
    "use_parallel=True parallel_config.model_parallel=2 parallel_config.pipeline_stage=2 parallel_config.micro_batch_num=2": (
        "asks for model_parallel 2 and pipeline_stage 2, but A and B are not cut"
    ),
    "kernels=off": "lora_dropout: got 0.01; a compiled step cannot leave out the same numbers",
    "load_checkpoint= run_mode=train": "load_checkpoint: is empty, but with pet_config",
    "resume_training=True": "checkpoint_name_or_path: is empty, but load_checkpoint names the adapter's run",
    "model.model_config.pet_config.compute_dtype=bfloat16": "compute_dtype: got bfloat16, but the model computes in float32",
    "model.model_config.pet_config.exclude_layers=[layers]": "exclude_layers: got .* leaves no layer",
}


@pytest.mark.parametrize("overrides", FOUND)
def test_what_stops_training_an_adapter_is_found(tmp_path, overrides):
    found = run_findings(read(tmp_path, PET, *overrides.split()))
    with pytest.raises(AssertionError, match=FOUND[overrides]):
        raise AssertionError(" ".join(map(str, found)))


@pytest.mark.parametrize("degrees", ["data_parallel=8", "data_parallel=4 parallel.parallel_mode=0 parallel_config.model_parallel=2"])
def test_copies_on_data_parallel_ranks_run(tmp_path, degrees):
    """In `parallel_mode: 0` every rank is a copy, whatever the degrees say."""
    overrides = f"use_parallel=True model.model_config.pet_config.lora_dropout=0 parallel_config.{degrees}"
    run = read(tmp_path, PET, *overrides.split())
    assert run_findings(run) == []
    assert not [note for note in notes(run) if "has no effect on an adapter" in note]
    run = read(tmp_path, PET, *overrides.split(), "parallel.enable_parallel_optimizer=True")
    assert [note for note in notes(run) if "parallel.enable_parallel_optimizer: has no effect on an adapter" in note]


def test_prediction_passes_it_over_and_says_so(tmp_path):
    run = read(tmp_path, PET, "run_mode=predict")
    assert not [error for error in run_findings(run) if "pet_config" in str(error)]
    assert [note for note in notes(run) if "pet_config: is for training alone; a trained adapter is used with --adapter" in note]


def test_a_plan_of_an_adapter_is_refused_and_check_counts_its_memory(tmp_path, capsys):
    """Of Llama 2 7B: rank 4 on wq and wv of 2 layers is 2 * 2 * 4 * (4096 + 4096) numbers."""
    read(tmp_path)
    assert main(["plan", str(tmp_path / "run.yaml")]) == 2
    assert "pet_config: trains an adapter, of which every rank has a copy" in capsys.readouterr().err
    main(["check", str(tmp_path / "run.yaml"), "--json"])
    memory = json.loads(capsys.readouterr().out)["memory"]
    count = 2 * 2 * 4 * (4096 + 4096)
    assert (memory["adapter"], memory["gradients"], memory["optimizer"]) == (4 * count, 4 * count, 8 * count)
    weights = 2 * 32000 * 4096 + 2 * (4 * 4096**2 + 3 * 4096 * 11008) + 5 * 4096
    assert memory["weights"] == 4 * weights
    compiled = (
        "--set",
        "model.model_config.pet_config.lora_dropout=0",
        "--set",
        "runner_config.gradient_accumulation_steps=2",
        "--set",
        "kernels=off",
    )
    main(["check", str(tmp_path / "run.yaml"), "--json", *compiled])
    assert json.loads(capsys.readouterr().out)["memory"]["gradients"] == 8 * count, "sums beside gradients"
    main(["check", str(tmp_path / "run.yaml"), "--json", "--set", "use_parallel=True", "--set", "parallel_config.data_parallel=8"])
    assert json.loads(capsys.readouterr().out)["memory"] == memory, "every rank has it all"
    main(["check", str(tmp_path / "run.yaml"), "--json", "--set", "model.model_config.compute_dtype=bfloat16"])
    narrow = json.loads(capsys.readouterr().out)["memory"]["weights"]
    assert 4 * weights - narrow == 2 * 2 * (4 * 4096**2 + 3 * 4096 * 11008), "matrices of the blocks in bfloat16"


def test_every_command_of_the_page_is_understood():
    page = (Path(__file__).parents[3] / "docs" / "lora.md").read_text(encoding="utf-8")
    commands = re.findall(r"^codellama (.+)$", page, re.MULTILINE)
    assert {command.split()[0] for command in commands} == {"finetune", "launch", "predict", "infill", "chat", "merge-lora"}
    for command in commands:
        words = shlex.split(command, comments=True)
        arguments = parse(build_parser([words[0]]), words)
        assert arguments.command == words[0]
