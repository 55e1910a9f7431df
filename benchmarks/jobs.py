"""A job: one measurement of one engine in a process of its own. Needs nothing but the standard library."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

OURS, PLAIN, LLAMA_CPP, TRANSFORMERS = "ours", "ours-plain", "llama.cpp", "transformers"
EAGER, COMPILED = "torch", "torch.compile"
MACHINE = "machine"


class Unavailable(Exception):
    """This side cannot be measured here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is asked for."""

    engine: str
    work: str = ""
    """`inference`, `first-token` or `training`; empty for the machine."""
    shape: str = ""
    form: str = ""
    """Weight form of inference; type of the products in training."""
    tasks: tuple[str, ...] = ()
    """Of inference; see inference_tasks.py."""
    threads: int = 2
    steps: int = 0
    """Decode steps of a block, or counted training steps."""
    repeats: int = 0
    """Prompts read after the first."""
    rows: int = 0
    """Of a training batch."""
    tokens: int = 0
    """Of a training row."""
    models: str = ""
    """Folder of the model files."""

    @property
    def name(self) -> str:
        """How results are filed: the same for every sample of the same thing."""
        return " ".join(part for part in (self.engine, self.work, self.shape, self.form) if part)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Job:
        values = json.loads(text)
        return Job(**values | {"tasks": tuple(values["tasks"])})
