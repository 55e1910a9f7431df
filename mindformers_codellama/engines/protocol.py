"""What an engine can do with a configuration, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from mindformers_codellama.config.sections import RunConfig


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came out of a run."""

    engine: str
    """Name of the engine that ran."""
    action: str
    """`train`, `finetune`, `eval` or `predict`."""
    lines: tuple[str, ...] = ()
    """For a person."""
    numbers: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Evaluation: `loss` per token and `perplexity`."""
    texts: tuple[str, ...] = ()
    """Prediction: prompt and answer of each prompt."""


class Engine(Protocol):
    """One way to compute. Every method raises a `CodeLlamaError` of the kind that fits, and never hands a run to another engine."""

    @property
    def name(self) -> str:
        """As the key `engine` says it."""
        ...

    def train(self, run: RunConfig) -> Report:
        """Train or finetune, as `run_mode` says."""
        ...

    def evaluate(self, run: RunConfig) -> Report:
        """Loss and perplexity on `eval_dataset`."""
        ...

    def predict(self, run: RunConfig, prompts: Sequence[str]) -> Report:
        """Continue each prompt."""
        ...
