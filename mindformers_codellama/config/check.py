"""Rules across sections. Each function returns every finding; `require_runnable` raises them.

`static_findings` hold for any use of a file and are applied when it is read; `run_findings` add
what the chosen `run_mode` needs; `notes` are worth a warning but stop nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from difflib import get_close_matches

from mindformers_codellama.config.check_adapter import adapter_findings, adapter_notes
from mindformers_codellama.config.check_layout import SINGLE_PASS_MODES, layout_findings, layout_notes
from mindformers_codellama.config.check_mindformers import mindformers_findings
from mindformers_codellama.config.check_weights import weights_findings
from mindformers_codellama.config.dialect import MODEL_KEYS
from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.config.refused import refused_findings
from mindformers_codellama.config.sections import CheckpointMonitor, LossMonitor, RunConfig
from mindformers_codellama.config.sections_training import DynamicLossScale
from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all

logger = logging.getLogger(__name__)

TYPE_KEYS = ("compute_dtype", "layernorm_compute_type", "softmax_compute_type", "rotary_dtype", "param_init_type")
TRAINING_MODES = ("train", "finetune")
FACT_KEYS = ("vocab_size", "hidden_size", "num_layers", "num_heads", "n_kv_heads", "intermediate_size", "theta")


def static_findings(run: RunConfig) -> list[CodeLlamaError]:
    """What is wrong with a configuration whatever it is used for; `where` is a dotted key."""
    return [*_device(run), *_tokens(run), *layout_findings(run), *_training(run), *_callbacks(run)]


def run_findings(run: RunConfig, *, ranks: int | None = None) -> list[CodeLlamaError]:
    """What stops this run from starting in its `run_mode`.

    Args:
        run: the configuration.
        ranks: how many processes there are; None is unknown, and then not judged.
    """
    return [
        *refused_findings(run, engine=run.engine),
        *static_findings(run),
        *mindformers_findings(run),
        *weights_findings(run),
        *adapter_findings(run),
        *_needs(run),
        *_ranks(run, ranks),
    ]


def require_runnable(run: RunConfig, *, ranks: int | None = None) -> None:
    """Raise all `run_findings`; log the `notes` as warnings. Every entry point of the native engine calls this first.

    Raises:
        ConfigError: one finding, or a configuration for another engine; `Findings` when there are several.
    """
    require_engine(run, "native")
    raise_all(run_findings(run, ranks=rank_count() if ranks is None else ranks))
    for note in notes(run):
        logger.warning("%s", note)


def require_engine(run: RunConfig, engine: str) -> None:
    """Raise when a configuration names another engine: nothing falls from one to the other.

    Raises:
        ConfigError: `engine` is not the one asked for.
    """
    if run.engine != engine:
        fix = f"write engine: {engine}, or start it with `codellama run --config FILE`, which follows the key."
        raise ConfigError("engine", f"is {run.engine}, but this was about to run with {engine}.", fix=fix)


def require_single_process(run: RunConfig) -> None:
    """Raise when a configuration asks for several ranks: this process is alone.

    Raises:
        ConfigError: `use_parallel` with degrees whose product is above 1, or a checkpoint cut over ranks.
    """
    found: list[CodeLlamaError] = []
    degrees = run.parallel_config
    if run.use_parallel and degrees.ranks > 1:
        equation = (
            f"data_parallel {degrees.data_parallel} * model_parallel {degrees.model_parallel} * pipeline_stage {degrees.pipeline_stage}"
        )
        problem = f"asks for {degrees.ranks} ranks ({equation}), but this is one process."
        found.append(ConfigError("use_parallel", problem, fix="--set use_parallel=False runs on one device, if the model fits it."))
    if run.src_strategy_path_or_dir:
        problem = "names the strategy of a checkpoint cut over ranks; one process reads whole checkpoints."
        found.append(ConfigError("src_strategy_path_or_dir", problem, fix="merge the parts first, and leave this key empty."))
    raise_all(found)


def rank_count(environment: Mapping[str, str] | None = None) -> int | None:
    """Ranks of this job from RANK_SIZE (launchers with a rank table) or MS_WORKER_NUM (msrun); None when nobody says.

    Raises:
        ConfigError: a value that is not a whole number above 0.
    """
    found = os.environ if environment is None else environment
    name = next((name for name in ("RANK_SIZE", "MS_WORKER_NUM") if found.get(name)), "")
    if not name:
        return None
    text = found[name]
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(name, f"got {text!r} from the environment.", fix="a whole number of at least 1, or unset it.")
    return int(text)


def global_batch(run: RunConfig) -> int:
    """Rows per step over all ranks.

    Source: mindformers 1.0.2. In a pipeline micro batches take the place of accumulation, without `full_batch` (and in
    `parallel_mode: 0`) `batch_size` counts per card, and without `use_parallel` the degrees are 1.
    """
    runner, degrees = run.runner_config, run.parallel_config
    if not run.use_parallel:
        return runner.batch_size * runner.gradient_accumulation_steps
    copies = run.parallel.parallel_mode == 0
    per_card = copies or not run.parallel.full_batch
    parts = degrees.micro_batch_num if degrees.pipeline_stage > 1 and not copies else runner.gradient_accumulation_steps
    return runner.batch_size * (degrees.ranks if per_card else degrees.data_parallel) * parts * run.micro_batch_interleave_num


def notes(run: RunConfig) -> list[str]:
    """What a person should know before starting, though nothing is wrong."""
    settings, context = run.model.model_config, run.context
    config = run.model.config
    training = run.run_mode in ("train", "finetune")
    found = [*_facts_notes(run), *layout_notes(run), *adapter_notes(run)]
    if context.device_target == "CPU" and config.compute_dtype == "float16":
        found.append("model.model_config.compute_dtype: float16 works on the CPU but is slow; float32 is faster.")
    if training and config.compute_dtype == "float16" and not isinstance(run.runner_wrapper.scale_sense, DynamicLossScale):
        found.append("runner_wrapper.scale_sense: float16 gradients can underflow; DynamicLossScaleUpdateCell guards against it.")
    if settings.extend_method == "None" and settings.scaling_factor != 1:
        found.append("model.model_config.scaling_factor: has no effect while extend_method is None.")
    if config.seq_length > config.max_position * (settings.scaling_factor if settings.extend_method != "None" else 1):
        reach = f"{config.seq_length} is beyond the trained positions ({config.max_position})"
        found.append(f"model.model_config.seq_length: {reach}; see extend_method.")
    if not training and run.model.generation.max_length > config.seq_length:
        found.append(f"model.model_config.max_decode_length: is cut to seq_length ({config.seq_length}).")
    if not run.start_weights and run.run_mode in SINGLE_PASS_MODES:
        found.append("load_checkpoint: no weights are named, so the model starts from random ones.")
    return found


def _facts_notes(run: RunConfig) -> list[str]:
    """Where the configuration and the registry's model of the same name differ."""
    name = run.trainer.model_name
    facts = FAMILIES.get(name)
    if not name:
        return []
    if facts is None:
        near = get_close_matches(name, FAMILIES, n=1)
        return [f"trainer.model_name: {name!r} is not in the model registry" + (f"; did you mean {near[0]}?" if near else ".")]
    config, found = run.model.config, []
    for key in FACT_KEYS:
        written, published = getattr(config, MODEL_KEYS[key]), getattr(facts.config, MODEL_KEYS[key])
        if written != published:
            found.append(
                f"model.model_config.{key}: is {written}, but {name} has {published}; its published weights will not fit or not work."
            )
    return found


def _device(run: RunConfig) -> list[CodeLlamaError]:
    """What the CPU cannot compute: bfloat16 without the kernels, and outside of matrix products and attention."""
    settings = run.model.model_config
    if run.context.device_target != "CPU":
        return []
    with_kernels = run.engine == "native" and run.kernels != "off"
    found: list[CodeLlamaError] = []
    if settings.compute_dtype == "bfloat16" and not with_kernels:
        problem = "MindSpore has no bfloat16 matrix product on the CPU, only the kernels of engine: native have."
        found.append(ConfigError("model.model_config.compute_dtype", problem, fix="write float32, or engine: native and kernels: auto."))
    for key in TYPE_KEYS[1:]:
        if getattr(settings, key) == "bfloat16":
            problem = "got bfloat16; MindSpore has no bfloat16 arithmetic on the CPU, and the kernels only that of compute_dtype."
            found.append(ConfigError(f"model.model_config.{key}", problem, fix="write float32."))
        elif key == "param_init_type" and run.run_mode not in (*TRAINING_MODES, "eval"):
            continue
        elif getattr(settings, key) != "float32" and settings.compute_dtype == "bfloat16":
            problem = f"got {getattr(settings, key)}; with compute_dtype: bfloat16 on the CPU only float32 is possible."
            found.append(ConfigError(f"model.model_config.{key}", problem, fix="write float32."))
    return found


def _tokens(run: RunConfig) -> list[CodeLlamaError]:
    """Special ids outside the vocabulary."""
    settings = run.model.model_config
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, tuple) else (settings.eos_token_id,)
    named = [("bos_token_id", settings.bos_token_id), ("pad_token_id", settings.pad_token_id), *(("eos_token_id", end) for end in ends)]
    found: list[CodeLlamaError] = [
        ConfigError(f"model.model_config.{key}", f"got {token}, must be below vocab_size ({settings.vocab_size}).")
        for key, token in named
        if token >= settings.vocab_size
    ]
    if 0 <= settings.ignore_token_id < settings.vocab_size:
        fix = "write -100, as MindFormers does."
        found.append(ConfigError("model.model_config.ignore_token_id", f"got {settings.ignore_token_id}, which is also a token.", fix=fix))
    return found


def _training(run: RunConfig) -> list[CodeLlamaError]:
    """Learning rate, columns and resuming."""
    found: list[CodeLlamaError] = []
    schedule = run.lr_schedule
    if schedule.total_steps > 0 and schedule.warmup_ratio is None and schedule.warmup_steps > schedule.total_steps:
        found.append(
            ConfigError("lr_schedule.warmup_steps", f"got {schedule.warmup_steps}, must be at most total_steps ({schedule.total_steps}).")
        )
    if schedule.lr_end is not None and schedule.lr_end > schedule.learning_rate:
        found.append(ConfigError("lr_schedule.lr_end", f"got {schedule.lr_end}, must be at most learning_rate ({schedule.learning_rate})."))
    for name, dataset in (("train_dataset", run.train_dataset), ("eval_dataset", run.eval_dataset)):
        columns = dataset.input_columns
        if "input_ids" not in columns:
            found.append(
                ConfigError(f"{name}.input_columns", f"got {list(columns)}, must hold input_ids.", fix='write ["input_ids", "labels"].')
            )
        if len(set(columns)) < len(columns):
            found.append(ConfigError(f"{name}.input_columns", f"got {list(columns)}, a column twice."))
    if run.resume_training and not run.load_checkpoint:
        problem = "True needs load_checkpoint, the state to go on from."
        found.append(ConfigError("resume_training", problem, fix="set load_checkpoint to the checkpoint folder of the stopped run."))
    return found


def _callbacks(run: RunConfig) -> list[CodeLlamaError]:
    """More than one of a kind."""
    found: list[CodeLlamaError] = []
    for kind in (CheckpointMonitor, LossMonitor):
        if sum(isinstance(item, kind) for item in run.callbacks) > 1:
            found.append(ConfigError("callbacks", f"holds {kind.__name__} more than once.", fix="keep one."))
    return found


def _needs(run: RunConfig) -> list[CodeLlamaError]:
    """What each `run_mode` cannot do without."""
    found: list[CodeLlamaError] = []

    def need(key: str, problem: str, fix: str) -> None:
        found.append(ConfigError(key, problem, fix=fix))

    if run.run_mode in ("train", "finetune") and not run.train_dataset.data_loader.given:
        need("train_dataset.data_loader.dataset_dir", "is empty.", "name a mindrecord file or folder; `codellama data` makes one.")
    if run.run_mode == "finetune" and not run.start_weights:
        need("load_checkpoint", "is empty, but run_mode is finetune.", "name the checkpoint to finetune, or write run_mode: train.")
    if (run.do_eval or run.run_mode == "eval") and not run.eval_dataset.data_loader.given:
        need("eval_dataset.data_loader.dataset_dir", "is empty, but evaluation is asked for.", "name a mindrecord file or folder.")
    if run.do_eval and run.eval_step_interval == -1 and run.eval_epoch_interval == -1:
        need("do_eval", "is True, but neither eval_step_interval nor eval_epoch_interval is set.", "set one of them to at least 1.")
    return found


def _ranks(run: RunConfig, ranks: int | None) -> list[CodeLlamaError]:
    """The product of the degrees against the processes there are."""
    degrees = run.parallel_config
    if not run.use_parallel or ranks is None or degrees.ranks == ranks:
        return []
    equation = f"{degrees.data_parallel} * {degrees.model_parallel} * {degrees.pipeline_stage} = {degrees.ranks}"
    problem = f"data_parallel * model_parallel * pipeline_stage is {equation}, but there are {ranks} ranks."
    return [ConfigError("parallel_config", problem, fix=f"choose degrees whose product is {ranks}.")]
