"""Sections of the `callbacks` list, one class per type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mindformers_codellama.config.fields import check_fields, key


@dataclass(frozen=True, kw_only=True)
class LossMonitor:
    """`MFLossMonitor`: the log line of training."""

    per_print_times: int = key(1, low=1)
    """Steps from one line to the next."""

    def __post_init__(self) -> None:
        check_fields(self, "callbacks.MFLossMonitor")


@dataclass(frozen=True, kw_only=True)
class CheckpointMonitor:
    """`CheckpointMonitor` (also written `CheckpointMointor`): when and how the state is saved."""

    prefix: str = "CKP"
    """Start of the file names."""
    directory: str = ""
    """Where to save; empty is `output_dir/checkpoint`."""
    save_checkpoint_steps: int = key(1, low=1)
    """Steps from one save to the next; the last step is always saved."""
    save_checkpoint_seconds: int = key(0, low=0)
    """Save after this many seconds instead; 0 counts steps."""
    keep_checkpoint_max: int = key(5, low=1)
    """Saves kept; older ones are removed after the newer one is complete."""
    keep_checkpoint_per_n_minutes: int = key(0, low=0)
    """Keep one save per so many minutes; 0 is the one value we have."""
    integrated_save: bool = True
    """Gather sharded weights before saving; without several ranks there is nothing to gather."""
    async_save: bool = False
    """Save in the background; False is the one value we have."""
    save_network_params: bool = True
    """Also write the weights alone under `checkpoint_network`."""
    save_trainable_params: bool = False
    """Write only trained weights; False is the one value we have (all are trained)."""
    checkpoint_format: str = key("ckpt", choices=("ckpt", "safetensors"))
    """Format of the files."""
    exception_save: bool = False
    """Save when training stops with an error as well."""

    def __post_init__(self) -> None:
        check_fields(self, "callbacks.CheckpointMonitor")


@dataclass(frozen=True, kw_only=True)
class ObsMonitor:
    """`ObsMonitor`: upload to Huawei Cloud OBS; does nothing outside ModelArts, here as in MindFormers."""

    upload_frequence: int = key(-1, low=1, also=(-1,))
    """Companion of the upload."""
    keep_last: bool = True
    """Companion of the upload."""

    def __post_init__(self) -> None:
        check_fields(self, "callbacks.ObsMonitor")


@dataclass(frozen=True, kw_only=True)
class SummaryMonitor:
    """`SummaryMonitor`: scalars to TensorBoard, as `train_log.tensorboard` gives them."""

    summary_dir: str = ""
    """Where to write; empty is `output_dir/log`."""
    collect_freq: int = key(10, low=1)
    """No effect: every step is a point."""

    def __post_init__(self) -> None:
        check_fields(self, "callbacks.SummaryMonitor")


Callback = LossMonitor | CheckpointMonitor | ObsMonitor | SummaryMonitor

CALLBACK_TYPES: Mapping[str, type] = {
    "MFLossMonitor": LossMonitor,
    "CheckpointMonitor": CheckpointMonitor,
    "CheckpointMointor": CheckpointMonitor,
    "ObsMonitor": ObsMonitor,
    "SummaryMonitor": SummaryMonitor,
}
"""`type` of a callback to its section; the misspelt name is MindFormers' own until r1.1."""
