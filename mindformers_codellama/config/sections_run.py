"""Sections about the run as a whole: trainer, runner, tokenizer, metric, logs, compatibility."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindformers_codellama.config.fields import check_fields, key


@dataclass(frozen=True, kw_only=True)
class TrainerSection:
    """`trainer`: the task and the name of the model."""

    type: str = key("CausalLanguageModelingTrainer", choices=("CausalLanguageModelingTrainer",))
    """The task. Code Llama has one: predict the next token."""
    model_name: str = ""
    """Name used in messages, and looked up in the model registry to warn of sizes that do not fit it."""

    def __post_init__(self) -> None:
        check_fields(self, "trainer")


@dataclass(frozen=True, kw_only=True)
class RunnerConfigSection:
    """`runner_config`: how long and how much at a time."""

    epochs: int = key(1, low=1)
    """Passes over the training data."""
    batch_size: int = key(1, low=1)
    """Rows per rank and micro step; overwrites the batch size of the datasets."""
    sink_mode: bool = True
    """Count the run in groups of `sink_size` steps; reading itself is the same either way."""
    sink_size: int = key(-1, low=1, also=(-1,))
    """With `sink_mode`: steps of a group. Log lines and saves come at its end, a shorter rest is not run. -1: no groups."""
    gradient_accumulation_steps: int = key(1, low=1)
    """Micro steps whose gradients are added before one step."""

    def __post_init__(self) -> None:
        check_fields(self, "runner_config")


@dataclass(frozen=True, kw_only=True)
class TokenizerSection:
    """`processor.tokenizer`: the SentencePiece file and its special pieces."""

    type: str = key("LlamaTokenizer", choices=("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer"))
    """All three names give the one exact tokenizer; there is no separate fast one."""
    vocab_file: str = ""
    """Path of `tokenizer.model`, relative to the working directory; empty takes the one known by `trainer.model_name`."""
    unk_token: str = "<unk>"  # noqa: S105
    """Piece of unknown text."""
    bos_token: str = "<s>"  # noqa: S105
    """Piece that begins a text."""
    eos_token: str = "</s>"  # noqa: S105
    """Piece that ends a text."""
    pad_token: str = "<unk>"  # noqa: S105
    """Piece that fills short rows."""
    add_bos_token: bool = True
    """Begin every encoded text with `bos_token`."""
    add_eos_token: bool = False
    """End every encoded text with `eos_token`."""
    legacy: bool = True
    """Keep the space SentencePiece adds after a special piece, as the first Llama tokenizers did."""
    padding_side: str = key("right", choices=("right", "left"))
    """Where short rows are filled."""

    def __post_init__(self) -> None:
        check_fields(self, "processor.tokenizer")


@dataclass(frozen=True, kw_only=True)
class ProcessorSection:
    """`processor`: text to ids for prediction."""

    type: str = key("LlamaProcessor", choices=("LlamaProcessor",))
    """Only a name; kept so that YAML files of MindFormers load."""
    return_tensors: str = key("ms", choices=("ms", "np"))
    """Only a name; every entry point makes the arrays it needs."""
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    """The tokenizer."""

    def __post_init__(self) -> None:
        check_fields(self, "processor")


@dataclass(frozen=True, kw_only=True)
class MetricSection:
    """`metric`: what evaluation reports."""

    type: str = key("PerplexityMetric", choices=("PerplexityMetric",))
    """Mean loss per token and its exponential."""

    def __post_init__(self) -> None:
        check_fields(self, "metric")


@dataclass(frozen=True, kw_only=True)
class TrainLogSection:
    """`train_log` (not in MindFormers): what training writes under `output_dir/log`."""

    jsonl: bool = True
    """One JSON object per step: loss, learning rate, gradient norm, tokens per second."""
    tensorboard: bool = True
    """TensorBoard scalars of the same numbers."""
    plot: bool = True
    """A PNG of the loss, drawn again at every checkpoint and at the end."""


@dataclass(frozen=True, kw_only=True)
class CompatSection:
    """`compat` (not in MindFormers): bring back behaviour of MindFormers 1.0 that we hold to be a fault."""

    cosine_rises_again: bool = False
    """Let CosineWithWarmUpLR rise again after `total_steps`; otherwise it stays at `lr_end`."""
    no_decay_leak: bool = False
    """Let the first parameter without weight decay switch decay off for every parameter after it."""
    perplexity_counts_pads: bool = False
    """Weigh padding 1 and tokens 2 in evaluation; otherwise padding weighs nothing."""
