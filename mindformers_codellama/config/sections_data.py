"""Sections about datasets: `train_dataset`, `eval_dataset` and their tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindformers_codellama.config.fields import check_fields, key

COLUMNS = ("input_ids", "labels", "segment_ids", "position_ids")


@dataclass(frozen=True, kw_only=True)
class DataLoaderSection:
    """`train_dataset.data_loader`, `eval_dataset.data_loader`: the files."""

    type: str = key("MindDataset", choices=("MindDataset",))
    """Reader of the files; mindrecord is the one format."""
    dataset_dir: str = ""
    """A mindrecord file, or a folder searched for all of them (parts of one set included)."""
    dataset_files: tuple[str, ...] = ()
    """The mindrecord files themselves; wins over `dataset_dir`."""
    shuffle: bool = True
    """A new order every epoch, a pure function of the seed and the epoch."""
    num_samples: int | None = key(None, low=1)
    """Read only the first rows, this many; None reads all."""

    def __post_init__(self) -> None:
        check_fields(self, "data_loader")

    @property
    def given(self) -> bool:
        """Whether any file is named."""
        return bool(self.dataset_dir or self.dataset_files)


@dataclass(frozen=True, kw_only=True)
class DatasetSection:
    """`train_dataset`, `eval_dataset`: what is read and how."""

    data_loader: DataLoaderSection = field(default_factory=DataLoaderSection)
    """The files."""
    input_columns: tuple[str, ...] = key(("input_ids",), choices=COLUMNS)
    """Columns to read: `input_ids`; `labels` for finetuning; `segment_ids` and `position_ids` for packed rows."""
    fim_rate: float | None = key(None, low=0, high=1)
    """Refuse rows that `codellama data prepare --fim` did not make with this share of infilling tasks; None takes any rows."""
    fim_spm_rate: float | None = key(None, low=0, high=1)
    """Likewise the share of the tasks in the order suffix, prefix, middle."""
    fim_line_rate: float | None = key(None, low=0, high=1)
    """Likewise the share of the tasks whose middle lies in one line."""
    num_parallel_workers: int = key(8, low=1)
    """Threads that read; more than the machine has are not started."""
    python_multiprocessing: bool = False
    """No effect: no step of our reading runs Python code per row."""
    drop_remainder: bool = True
    """Leave out the last rows of an epoch that do not fill a batch."""
    repeat: int = key(1, low=1)
    """Read the files this many times per epoch."""
    numa_enable: bool = False
    """Bind reading to a memory node; False is the one value we have."""
    prefetch_size: int = key(1, low=1)
    """No effect: rows are read in blocks by their numbers, which is what makes resuming exact."""
    batch_size: int | None = key(None, low=1)
    """Accepted and overwritten by `runner_config.batch_size`, as in MindFormers."""
    seed: int | None = key(None, low=0)
    """Seed of the order; None takes the run's `seed`."""
    eod_reset: bool = False
    """Cut attention at end-of-document tokens while training; False is the one value we have."""
    eod_token_id: int | None = key(None, low=0)
    """Companion of `eod_reset`."""
    auto_tune: bool = False
    """Let MindData tune itself; False is the one value we have."""
    filepath_prefix: str = "./autotune"
    """Companion of `auto_tune`."""
    autotune_per_step: int = key(10, low=1)
    """Companion of `auto_tune`."""
    profile: bool = False
    """Profile the reading; False is the one value we have."""

    def __post_init__(self) -> None:
        check_fields(self, "dataset")


@dataclass(frozen=True, kw_only=True)
class DatasetTaskSection:
    """`train_dataset_task`, `eval_dataset_task`: MindFormers' wrapper of a dataset."""

    type: str = key("CausalLanguageModelDataset", choices=("CausalLanguageModelDataset",))
    """Rows of token ids for next-token prediction."""
    dataset_config: DatasetSection | None = None
    """The dataset again, normally `*train_dataset`; when it is written out it must say the same."""

    def __post_init__(self) -> None:
        check_fields(self, "dataset_task")
