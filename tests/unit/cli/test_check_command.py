"""`codellama check`: what it says, its findings and its exit code."""

import json
from pathlib import Path

import pytest

from mindformers_codellama.cli.check import size
from mindformers_codellama.cli.explain import explain_memory, files
from mindformers_codellama.cli.main import main
from mindformers_codellama.config.read import read_run

CONFIGS = Path(__file__).resolve().parents[3] / "configs/codellama"


def test_a_good_file_is_explained_and_passes(capsys):
    assert main(["check", str(CONFIGS / "predict_codellama_tiny.yaml")]) == 0
    text = capsys.readouterr().out
    for words in ("predict on CPU", "2,361,024 parameters", "6 heads in 2 groups", "theta 1e+06", "kv cache 524 KB", "nothing is wrong."):
        assert words in text


def test_findings_of_reading_and_of_the_run_are_all_shown(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("sead: 1\nrunner_config: {epochs: 0}\n")
    assert main(["check", str(path)]) == 2
    assert "2. " in capsys.readouterr().out
    path.write_text("run_mode: finetune\n")
    assert main(["check", str(path)]) == 2
    text = capsys.readouterr().out
    assert "train_dataset.data_loader.dataset_dir: is empty" in text
    assert "load_checkpoint: is empty" in text


def test_files_are_listed_and_missing_ones_are_findings(tmp_path, capsys):
    (tmp_path / "here.ckpt").write_text("x")
    path = tmp_path / "run.yaml"
    path.write_text(
        f"run_mode: finetune\nload_checkpoint: {tmp_path}/here.ckpt\noutput_dir: {tmp_path}/out\n"
        f"train_dataset: {{data_loader: {{dataset_dir: {tmp_path}/gone.mindrecord}}}}\n"
    )
    assert main(["check", str(path), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    uses = {item["key"]: (item["use"], item["exists"]) for item in found["files"]}
    assert uses["load_checkpoint"] == ("read", True)
    assert uses["train_dataset.data_loader.dataset_dir"] == ("read", False)
    assert uses["callbacks.CheckpointMonitor"] == ("write", False)
    assert found["findings"] == [f"train_dataset.data_loader.dataset_dir: {tmp_path}/gone.mindrecord does not exist."]


def test_steps_are_counted_from_the_manifest(tmp_path, capsys):
    (tmp_path / "d.mindrecord").write_text("x")
    (tmp_path / "d.mindrecord.manifest.json").write_text('{"rows": 103}')
    path = tmp_path / "run.yaml"
    data = f"train_dataset: {{repeat: 2, data_loader: {{dataset_dir: {tmp_path}/d.mindrecord}}}}\n"
    path.write_text(f"runner_config: {{epochs: 3, batch_size: 4, gradient_accumulation_steps: 5}}\n{data}")
    assert main(["check", str(path), "--json"]) == 0
    batch = json.loads(capsys.readouterr().out)["batch"]
    # 103 rows read twice are 206; 206 // 20 = 10 steps of 20 rows, 3 times
    assert (batch["global_batch"], batch["steps_per_epoch"], batch["total_steps"]) == (20, 10, 30)


def test_the_number_of_ranks_is_judged_when_given(capsys):
    path = str(CONFIGS / "predict_codellama_34b_910b.yaml")
    main(["check", path, "--ranks", "4", "--set", "processor.tokenizer.vocab_file="])
    assert "1 * 8 * 1 = 8, but there are 4 ranks" in capsys.readouterr().out
    assert main(["check", path, "--ranks", "8", "--set", "processor.tokenizer.vocab_file="]) == 0


def test_memory_of_34b_on_32_ranks_is_a_share_of_its_weights():
    """33,743,970,304 weights in float16 over 8 (4 x 2) ranks; moments of 8 bytes over 32."""
    memory = explain_memory(read_run(CONFIGS / "run_codellama_34b_910b.yaml"))
    assert memory == {"weights": 8_435_992_576, "gradients": 8_435_992_576, "optimizer": 8_435_992_576, "total": 25_307_977_728}


def test_a_run_without_checkpoints_writes_only_its_log():
    run = read_run(CONFIGS / "pretrain_codellama_tiny.yaml", overrides=["callbacks=[]"])
    assert [item.key for item in files(run) if item.use == "write"] == ["train_log"]


@pytest.mark.parametrize(("count", "text"), [(999, "999 B"), (13.5e9, "13.5 GB"), (2.5e15, "2.5e+03 TB")])
def test_sizes_are_in_decimal_units(count, text):
    assert size(count) == text


def test_no_ranks_are_refused(capsys):
    assert main(["check", str(CONFIGS / "predict_codellama_tiny.yaml"), "--ranks", "0"]) == 2
    assert capsys.readouterr().err == "codellama: error: --ranks: got 0, must be at least 1.\n"
