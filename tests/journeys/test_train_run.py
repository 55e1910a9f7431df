"""Training from configuration to files, in one process: what it writes, what it prints, what it refuses."""

import json
import logging
import math

import numpy as np
import pytest
import train_case

from mindformers_codellama.checkpoint.convert import convert
from mindformers_codellama.cli.main import main
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, ConfigError, DataError, EnvironmentFault, TrainingError
from mindformers_codellama.train.run import train


@pytest.fixture(autouse=True)
def _no_handler_of_the_command_line_stays():
    """`main` logs to the stderr of its moment, which pytest closes after the test."""
    yield
    logging.getLogger("mindformers_codellama").handlers.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return train_case.write_data(tmp_path_factory.mktemp("data") / "d.mindrecord")


def eval_section(data):
    return {"data_loader": {"dataset_dir": str(data), "shuffle": False}, "drop_remainder": False}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """(output folder, result, log text) of one run in sink mode with evaluation and every log."""
    folder = tmp_path_factory.mktemp("trained")
    path = train_case.write_config(
        folder / "c.yaml", data, folder / "out",
        runner_config={"epochs": 9, "sink_mode": True, "sink_size": 4}, train_log={"plot": True, "tensorboard": True},
        do_eval=True, eval_epoch_interval=3, eval_dataset=eval_section(data),
    )  # fmt: skip
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("mindformers_codellama")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        result = train(read_run(path))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return folder / "out", result, records


def test_the_loss_falls_and_every_file_is_there(trained):
    out, result, _ = trained
    assert result.step == result.updates == 52  # int(6 / 4 * 9) = 13 sink epochs of 4 steps
    assert np.mean(result.losses[-5:]) < 0.6 * np.mean(result.losses[:5])
    assert len(train_case.losses(out)) == 52
    assert result.checkpoint == out / "checkpoint" / "rank_0" / "t_rank_0-13_4.ckpt"
    assert json.loads((out / "checkpoint" / "rank_0" / "meta.json").read_text()) == {
        "last_epoch": 13, "last_step": 4, "last_ckpt_file": "t_rank_0-13_4.ckpt"
    }  # fmt: skip
    assert len(list((out / "checkpoint" / "rank_0").glob("*.ckpt"))) == 9
    assert result.network_checkpoint.is_file()
    assert result.plot.read_bytes().startswith(b"\x89PNG")
    assert list((out / "log" / "tensorboard").glob("events.*"))


def test_mindformers_line_comes_once_per_sink_epoch_with_the_place_in_the_data(trained):
    lines = [line for line in trained[2] if line.startswith("{ Epoch")]
    assert len(lines) == 13
    assert lines[0].startswith("{ Epoch:[  1/  9], step:[    4/    6], loss: ")
    assert lines[1].startswith("{ Epoch:[  2/  9], step:[    2/    6], loss: ")
    bars = [line for line in trained[2] if line.endswith(" }")]
    assert bars[-1].startswith("  100.0% |")
    assert "samples/s/p" in bars[0]


def test_evaluation_runs_when_due_and_its_perplexity_is_the_exponential_of_its_loss(trained):
    out, result, records = trained
    lines = [json.loads(line) for line in (out / "log" / "train.jsonl").read_text().splitlines()]
    evals = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evals] == [18, 36, 52]  # every 3 epochs of 6 steps, and the end
    assert result.evaluation.perplexity == pytest.approx(math.exp(result.evaluation.loss))
    assert evals[0]["eval_loss"] > evals[-1]["eval_loss"]
    assert any(line.startswith("eval at step 18: loss ") for line in records)


def test_evaluate_gives_the_same_loss_as_training_saw_and_mindformers_pad_counting_on_request(trained, data, tmp_path, capsys):
    out, result, _ = trained
    path = train_case.write_config(
        tmp_path / "e.yaml", data, tmp_path / "unused", run_mode="eval", load_checkpoint=str(out / "checkpoint"),
        eval_dataset=eval_section(data), runner_config={"batch_size": 5},
    )  # fmt: skip
    assert main(["evaluate", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["loss"] == pytest.approx(result.evaluation.loss, rel=1e-5)  # another batch size, the same mean over tokens
    assert told["tokens"] == 24 * train_case.SEQ
    assert main(["evaluate", str(path), "--json", "--set", "compat.perplexity_counts_pads=True"]) == 0
    old = json.loads(capsys.readouterr().out)
    assert old["tokens"] == 2 * 24 * train_case.SEQ  # no pads here: every weight is 2 instead of 1
    assert old["loss"] == pytest.approx(result.evaluation.loss, rel=0.2)


def test_finetuning_starts_from_ckpt_huggingface_and_safetensors_with_one_loss_and_a_fresh_optimizer(trained, data, tmp_path):
    out, result, _ = trained
    convert(result.network_checkpoint, tmp_path / "hf", to="hf", config=read_config(data, tmp_path), dtype="float32")
    convert(result.network_checkpoint, tmp_path / "w.safetensors", to="safetensors", config=read_config(data, tmp_path), dtype="float32")
    first = []
    for number, source in enumerate([out / "checkpoint", tmp_path / "hf", tmp_path / "w.safetensors"]):
        tuned = run(data, tmp_path / f"tuned{number}", run_mode="finetune", load_checkpoint=str(source), runner_config={"epochs": 1})
        assert tuned.step == 6
        first.append(train_case.losses(tmp_path / f"tuned{number}")[1])
    assert first[0] == first[1] == first[2] < 0.6 * result.losses[0]


def test_finetuning_from_weights_of_another_size_or_from_nothing_is_refused(trained, data, tmp_path, capsys):
    out, _, _ = trained
    path = train_case.write_config(tmp_path / "c.yaml", data, tmp_path / "tuned", run_mode="finetune", load_checkpoint=str(out))
    assert main(["finetune", str(path), "--set", "model.model_config.hidden_size=32"]) == 3
    told = capsys.readouterr().err
    assert "another model size: hidden_size 16 there, 32 in the model" in told
    assert "model.norm_out.weight: has shape [16], the model needs [32]" in told  # every tensor is listed
    assert main(["finetune", str(path), "--set", "load_checkpoint=nowhere.ckpt"]) == 3
    assert main(["finetune", str(path), "--set", "load_checkpoint="]) == 2
    assert "load_checkpoint: is empty, but run_mode is finetune" in capsys.readouterr().err
    assert not (tmp_path / "tuned" / "checkpoint").exists()


def read_config(data, folder):
    return read_run(train_case.write_config(folder / "x.yaml", data, folder / "x")).model.config


def run(data, output, **change):
    output.mkdir(parents=True, exist_ok=True)
    return train(read_run(train_case.write_config(output / "c.yaml", data, output, **change)))


def test_two_micro_batches_of_two_rows_train_like_one_batch_of_four(data, tmp_path):
    whole = run(data, tmp_path / "whole", runner_config={"batch_size": 4})
    parts = run(data, tmp_path / "parts", runner_config={"batch_size": 2, "gradient_accumulation_steps": 2})
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=2e-6)  # rows have equally many tokens; only the order of sums differs


@pytest.mark.slow
def test_recompute_changes_no_loss_and_the_cpu_is_told_that_it_saves_nothing(data, tmp_path, caplog):
    plain = run(data, tmp_path / "plain", runner_config={"epochs": 1}, kernels="off")
    again = run(data, tmp_path / "again", runner_config={"epochs": 1}, recompute_config={"recompute": True}, kernels="off")
    assert again.losses == plain.losses
    assert "computes again but needs no less memory" in caplog.text


def test_a_dry_run_checks_and_tells_and_writes_nothing(data, tmp_path, capsys):
    path = train_case.write_config(tmp_path / "c.yaml", data, tmp_path / "out")
    assert main(["train", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "steps: 12 of 4 rows (32 tokens), 6 per epoch" in told
    assert "dry run: nothing was trained." in told
    assert not list((tmp_path / "out").rglob("*"))


def test_rows_of_another_length_are_refused_with_both_numbers(tmp_path):
    data = train_case.write_data(tmp_path / "long.mindrecord", seq=11)
    with pytest.raises(DataError, match=r"rows hold 12 ids, but seq_length 8 needs rows of 9"):
        run(data, tmp_path / "out")


def test_a_dataset_without_any_label_is_refused(tmp_path):
    data = train_case.write_data(tmp_path / "masked.mindrecord", labels="masked")
    with pytest.raises(DataError, match=r"every label of the first 6 steps is masked: there is no token to learn"):
        run(data, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c.yaml"]  # found before a step: no checkpoint, no log


@pytest.mark.slow
def test_float16_with_a_dynamic_scale_follows_float32_on_the_cpu(data, tmp_path):
    plain = run(data, tmp_path / "float32", runner_config={"epochs": 1})
    base = train_case.config(data, tmp_path)["model"]
    half = {"model_config": base["model_config"] | {"compute_dtype": "float16"}}
    sense = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 1024, "scale_factor": 2, "scale_window": 1000}
    tuned = run(data, tmp_path / "float16", runner_config={"epochs": 1}, model=half, runner_wrapper={"scale_sense": sense})
    assert tuned.updates == 6
    assert tuned.losses != plain.losses
    np.testing.assert_allclose(tuned.losses, plain.losses, rtol=5e-3)  # ten bits of fraction


def test_a_rate_that_throws_the_weights_away_stops_with_its_name(data, tmp_path, capsys):
    """The loss stays a number (ln 40: every logit is 0), only the gradient does not."""
    path = train_case.write_config(tmp_path / "c.yaml", data, tmp_path / "out")
    assert main(["train", str(path), "--set", "lr_schedule.learning_rate=1e6"]) == 7
    told = capsys.readouterr().err
    assert "gradients overflowed 5 times in a row (learning rate 1e+06, gradient norm nan), and a loss scale of 1 cannot fall" in told
    assert "Last complete checkpoint: " in told
    assert "Traceback" not in told


def test_a_dataset_smaller_than_a_batch_or_a_step_is_refused(data, tmp_path):
    with pytest.raises(DataError, match="24 rows, less than one batch of 32"):
        run(data, tmp_path / "a", runner_config={"batch_size": 32})
    with pytest.raises(ConfigError, match="one epoch has 6 micro batches, one step needs 7"):
        run(data, tmp_path / "b", runner_config={"gradient_accumulation_steps": 7})


def test_an_output_folder_with_another_run_is_refused_before_anything_is_read(trained, tmp_path):
    out, _, _ = trained
    with pytest.raises(ConfigError, match="output_dir: already holds 9 checkpoints of another run"):
        train(read_run(train_case.write_config(tmp_path / "c.yaml", tmp_path / "no data", out)))


def test_resuming_an_older_checkpoint_is_refused_while_later_ones_lie_where_it_would_write(trained, data, tmp_path, capsys):
    out, _, _ = trained
    older = out / "checkpoint" / "rank_0" / "t_rank_0-11_4.ckpt"
    change = {"resume_training": True, "load_checkpoint": str(older), "runner_config": {"epochs": 9, "sink_mode": True, "sink_size": 4}}
    path = train_case.write_config(tmp_path / "c.yaml", data, out, **change)
    assert main(["train", str(path)]) == 2
    assert "holds 2 checkpoints that are later than" in capsys.readouterr().err
    assert main(["train", str(path), "--force", "--dry-run"]) == 0
    assert f"resumes from {older} after 44 steps" in capsys.readouterr().out
    assert main(["train", str(path), "--dry-run", "--set", f"output_dir={tmp_path / 'elsewhere'}"]) == 0


def test_forced_from_an_older_checkpoint_the_later_ones_go_once_the_first_new_one_is_there(data, tmp_path):
    run(data, tmp_path / "out", runner_config={"epochs": 3})
    saved = tmp_path / "out" / "checkpoint" / "rank_0"

    def places():
        return {path.stem.rsplit("-", 1)[1] for path in saved.glob("*.ckpt")}

    assert places() == {"1_4", "2_2", "2_6", "3_4", "3_6"}
    change = {"resume_training": True, "load_checkpoint": str(saved / "t_rank_0-1_4.ckpt"), "runner_config": {"epochs": 2}}
    callbacks = [{"type": "CheckpointMonitor", "prefix": "t", "save_checkpoint_steps": 5, "keep_checkpoint_max": 9}]
    path = train_case.write_config(tmp_path / "c.yaml", data, tmp_path / "out", callbacks=callbacks, **change)
    assert train(read_run(path), force=True).step == 12
    assert places() == {"1_4", "1_5", "2_4", "2_6"}
    assert list(train_case.losses(tmp_path / "out")) == list(range(1, 13))


def test_resume_looks_where_the_checkpoint_monitor_writes(trained, data, tmp_path, capsys):
    out, _, _ = trained
    callbacks = [{"type": "CheckpointMonitor", "prefix": "t", "directory": str(out)}]
    path = train_case.write_config(tmp_path / "c.yaml", data, tmp_path / "logs", callbacks=callbacks)
    assert main(["train", str(path), "--resume", "--dry-run"]) == 0
    assert "t_rank_0-13_4.ckpt after 52 steps" in capsys.readouterr().out


def test_an_output_folder_that_cannot_be_written_is_told(data, tmp_path):
    (tmp_path / "file").write_text("")
    path = train_case.write_config(tmp_path / "c.yaml", data, tmp_path / "file" / "out")
    with pytest.raises(EnvironmentFault, match=r"output_dir: .*file/out cannot be written"):
        train(read_run(path))


def test_resuming_is_refused_for_another_model_other_data_a_finished_run_and_bare_weights(trained, data, tmp_path):
    out, result, _ = trained

    def resume(message, kind, source=out, data=data, **change):
        sink = {"epochs": 9, "sink_mode": True, "sink_size": 4}
        change = {"runner_config": sink, "resume_training": True, "load_checkpoint": str(source)} | change
        with pytest.raises(kind, match=message):
            run(data, tmp_path / "r", **change)

    bigger = {"model_config": train_case.config(data, tmp_path)["model"]["model_config"] | {"hidden_size": 32}}
    resume("another model size: hidden_size 16 there, 32 in the model", CodeLlamaError, model=bigger)
    other = train_case.write_data(tmp_path / "other.mindrecord", seed=3)
    resume("contents of the data files differ", TrainingError, data=other)
    resume("batch_size is 2 here, 4 in the checkpoint", CodeLlamaError, runner_config={"epochs": 9, "batch_size": 2})
    resume("the run has 52 steps and 52 are done already", ConfigError)
    resume("holds weights, but no state of a training run", CheckpointError, source=result.network_checkpoint)


def test_a_loss_that_is_no_number_stops_with_step_rate_last_checkpoint_and_advice(data, tmp_path):
    schedule = {"type": "ConstantWarmUpLR", "learning_rate": 1e18, "warmup_steps": 0}
    callbacks = [{"type": "CheckpointMonitor", "prefix": "t", "save_checkpoint_steps": 1, "exception_save": True}]
    message = (
        r"(?s)step \d+: loss is (nan|inf) \(learning rate 1e\+18.*lower lr_schedule.learning_rate.*Last complete checkpoint: .*t_rank_0-1_"
    )
    with pytest.raises(TrainingError, match=message):
        run(data, tmp_path, lr_schedule=schedule, callbacks=callbacks, runner_wrapper={"use_clip_grad": False})
    assert (tmp_path / "log" / "train.jsonl").is_file()
