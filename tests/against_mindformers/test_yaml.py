"""Every YAML of the project under the real MindFormers' loader: it reads the same numbers."""

from pathlib import Path

import pytest

from mindformers_codellama.config.dialect import MODEL_KEYS
from mindformers_codellama.config.read import read_run

pytestmark = pytest.mark.mindformers
pytest.importorskip("mindformers.tools", reason="needs the [mindformers] extra")  # this folder alone also answers to `mindformers`

FILES = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mindformers_reads_what_we_read(path, tmp_path, monkeypatch):
    """Its loader resolves base_config, anchors and numbers by itself; only keys the file leaves out may differ."""
    monkeypatch.chdir(tmp_path)  # MindFormers writes ./output/log
    from mindformers import MindFormerConfig

    theirs, ours = MindFormerConfig(str(path)), read_run(path)
    settings = ours.model.model_config
    written = {key: theirs.model.model_config[key] for key in MODEL_KEYS if key in theirs.model.model_config}
    assert len(written) >= 8
    assert written == {key: getattr(settings, key) for key in written}
    for key in ("data_parallel", "model_parallel", "pipeline_stage", "micro_batch_num"):
        assert theirs.parallel_config[key] == getattr(ours.parallel_config, key)
    if theirs.optimizer:
        assert theirs.optimizer.eps == ours.optimizer.eps
        assert theirs.lr_schedule.learning_rate == ours.lr_schedule.learning_rate
        assert theirs.train_dataset.data_loader.dataset_dir == ours.train_dataset.data_loader.dataset_dir
