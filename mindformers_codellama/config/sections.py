"""`RunConfig`: everything a YAML file can say, as frozen sections named as in the file.

Each section lives in the `sections_*` module of its subject and is exported here as well.
Attribute names are the keys of MindFormers' YAML; defaults are MindFormers'.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mindformers_codellama.config.fields import check_fields, key
from mindformers_codellama.config.kernels_key import KERNELS
from mindformers_codellama.config.sections_callbacks import Callback, CheckpointMonitor, LossMonitor, ObsMonitor, SummaryMonitor
from mindformers_codellama.config.sections_data import DataLoaderSection, DatasetSection, DatasetTaskSection
from mindformers_codellama.config.sections_model import ArchSection, LlamaSettings, ModelSection
from mindformers_codellama.config.sections_parallel import (
    ContextSection,
    MoeConfigSection,
    ParallelConfigSection,
    ParallelSection,
)
from mindformers_codellama.config.sections_run import (
    CompatSection,
    MetricSection,
    ProcessorSection,
    RunnerConfigSection,
    TokenizerSection,
    TrainerSection,
    TrainLogSection,
)
from mindformers_codellama.config.sections_training import (
    DynamicLossScale,
    LrScheduleSection,
    OptimizerSection,
    RecomputeConfigSection,
    RunnerWrapperSection,
)
from mindformers_codellama.config.weight_forms import WEIGHT_FORMS

RUN_MODES = ("train", "finetune", "eval", "predict", "export")
ENGINES = ("native", "mindformers")

__all__ = [
    "ENGINES",
    "KERNELS",
    "RUN_MODES",
    "ArchSection",
    "Callback",
    "CheckpointMonitor",
    "CompatSection",
    "ContextSection",
    "DataLoaderSection",
    "DatasetSection",
    "DatasetTaskSection",
    "DynamicLossScale",
    "LlamaSettings",
    "LossMonitor",
    "LrScheduleSection",
    "MetricSection",
    "ModelSection",
    "MoeConfigSection",
    "ObsMonitor",
    "OptimizerSection",
    "ParallelConfigSection",
    "ParallelSection",
    "ProcessorSection",
    "RecomputeConfigSection",
    "RunConfig",
    "RunnerConfigSection",
    "RunnerWrapperSection",
    "SummaryMonitor",
    "TokenizerSection",
    "TrainLogSection",
    "TrainerSection",
]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: what to do, with what model, on what data, where."""

    seed: int = key(0, low=0, high=2**32 - 1)
    """Seed of initial weights, data order and sampling."""
    output_dir: str = "./output"
    """Everything a run writes goes below this folder."""
    load_checkpoint: str = ""
    """Weights (and with `resume_training` the whole state) to start from: a file, a folder, or a Hugging Face directory."""
    src_strategy_path_or_dir: str = ""
    """Strategy files that say how `load_checkpoint` is cut; empty is a whole checkpoint."""
    auto_trans_ckpt: bool = False
    """Cut a `load_checkpoint` of another layout anew for this run's ranks at the start."""
    only_save_strategy: bool = False
    """Write the strategy files and stop."""
    resume_training: bool = False
    """Go on where `load_checkpoint` stopped: optimizer, step, data position and random state too."""
    run_mode: str = key("train", choices=RUN_MODES)
    """`train`, `finetune` (needs `load_checkpoint`), `eval`, `predict` or `export`."""
    engine: str = key("native", choices=ENGINES)
    """Ours: who computes. `native` is this package, `mindformers` an installed MindFormers 1.9 (docs/engines.md)."""
    kernels: str = key("auto", choices=KERNELS, spellings={"false": "off"})  # what YAML makes of a bare off
    """Ours: C++ kernels of the native engine on the CPU (docs/kernels.md). `auto` takes the best level this machine has, `off` plain
    MindSpore operators; a level's name forces it. CODELLAMA_KERNELS in the environment wins."""
    weights: str = key("auto", choices=WEIGHT_FORMS)
    """Ours: form the weights are held in for prediction and evaluation (docs/quantization.md). `auto` takes packed weights as they are and
    other checkpoints in `param_init_type`; `bfloat16`, `int8` and `int4` are packed at load, for the kernels."""
    trainer: TrainerSection = field(default_factory=TrainerSection)
    """Task and model name."""
    do_eval: bool = False
    """Evaluate on `eval_dataset` while training."""
    eval_step_interval: int = key(-1, low=1, also=(-1,))
    """Steps from one evaluation to the next; -1 is none by steps."""
    eval_epoch_interval: int = key(50, low=1, also=(-1,))
    """Epochs from one evaluation to the next; -1 is none by epochs."""
    runner_config: RunnerConfigSection = field(default_factory=RunnerConfigSection)
    """Epochs and batch size."""
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    """The optimizer."""
    lr_schedule: LrScheduleSection = field(default_factory=LrScheduleSection)
    """The learning rate."""
    train_dataset: DatasetSection = field(default_factory=DatasetSection)
    """Rows to train on."""
    train_dataset_task: DatasetTaskSection = field(default_factory=DatasetTaskSection)
    """MindFormers' wrapper of `train_dataset`."""
    eval_dataset: DatasetSection = field(default_factory=DatasetSection)
    """Rows to evaluate on."""
    eval_dataset_task: DatasetTaskSection = field(default_factory=DatasetTaskSection)
    """MindFormers' wrapper of `eval_dataset`."""
    use_parallel: bool = False
    """Run on as many ranks as `parallel_config` multiplies to."""
    parallel: ParallelSection = field(default_factory=ParallelSection)
    """How ranks work together."""
    parallel_config: ParallelConfigSection = field(default_factory=ParallelConfigSection)
    """How many ranks for what."""
    micro_batch_interleave_num: int = key(1, low=1)
    """Parts of `batch_size` rows that a micro step computes in turn in one graph, so that communication can hide; 1 is none."""
    recompute_config: RecomputeConfigSection = field(default_factory=RecomputeConfigSection)
    """Time for memory."""
    callbacks: tuple[Callback, ...] = (LossMonitor(), CheckpointMonitor(save_checkpoint_steps=1000))
    """What happens at steps: log line, saving, summaries. A list of sections with a `type` each."""
    eval_callbacks: tuple[Callback, ...] = ()
    """Checked without effect: evaluation prints its own line."""
    context: ContextSection = field(default_factory=ContextSection)
    """Device and mode."""
    model: ModelSection = field(default_factory=ModelSection)
    """The network."""
    processor: ProcessorSection = field(default_factory=ProcessorSection)
    """The tokenizer."""
    metric: MetricSection = field(default_factory=MetricSection)
    """What evaluation reports."""
    runner_wrapper: RunnerWrapperSection = field(default_factory=RunnerWrapperSection)
    """Loss scale and clipping."""
    moe_config: MoeConfigSection | None = None
    """Experts; only the dense one."""
    input_data: tuple[str, ...] = ()
    """Prediction: texts, or files or folders of texts."""
    predict_batch_size: int | None = key(None, low=1)
    """Prediction: prompts at once; None takes `model.model_config.batch_size`."""
    auto_tune: bool = False
    """Tune the reading of data; False is the one value we have."""
    filepath_prefix: str = "./autotune"
    """Companion of `auto_tune`."""
    autotune_per_step: int = key(10, low=1)
    """Companion of `auto_tune`."""
    profile: bool = False
    """Profile the run with MindSpore's profiler; False is the one value we have."""
    profile_start_step: int = key(1, low=0)
    """Companion of `profile`."""
    profile_stop_step: int = key(10, low=0)
    """Companion of `profile`."""
    init_start_profile: bool = False
    """Companion of `profile`."""
    profile_communication: bool = False
    """Companion of `profile`."""
    profile_memory: bool = True
    """Companion of `profile`."""
    layer_scale: bool = False
    """A learning rate per layer; False is the one value we have."""
    layer_decay: float = 0.65
    """Companion of `layer_scale`."""
    lr_scale: bool = False
    """Scale the learning rate by the batch; False is the one value we have."""
    lr_scale_factor: int = key(256, low=1)
    """Companion of `lr_scale`."""
    remote_save_url: str = ""
    """Address in Huawei Cloud OBS to upload to; empty (or MindFormers' placeholder text) is the one value we have."""
    train_log: TrainLogSection = field(default_factory=TrainLogSection)
    """Ours: what training writes besides checkpoints."""
    compat: CompatSection = field(default_factory=CompatSection)
    """Ours: old behaviour of MindFormers on request."""

    def __post_init__(self) -> None:
        check_fields(self, "")

    @property
    def checkpoint_monitor(self) -> CheckpointMonitor | None:
        """When and how the state is saved; None when no callback saves."""
        return next((item for item in self.callbacks if isinstance(item, CheckpointMonitor)), None)

    @property
    def loss_monitor(self) -> LossMonitor | None:
        """How often the log line is printed; None when no callback prints it."""
        return next((item for item in self.callbacks if isinstance(item, LossMonitor)), None)

    @property
    def start_weights(self) -> str:
        """The checkpoint the run starts from, whichever key names it; empty starts from initial weights."""
        return self.load_checkpoint or self.model.checkpoint_name_or_path
