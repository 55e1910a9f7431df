"""Section `model.model_config.pet_config`: low-rank adapters (LoRA, arXiv 2106.09685) in MindFormers' words.

With it only pairs of small matrices are trained: a linear layer of weight W `(O, I)` computes `W x + alpha / r B (A x)`, A being
`(r, I)` and B `(O, r)`, and W stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mindformers_codellama.config.fields import check_fields, key
from mindformers_codellama.config.model_config import DTYPES
from mindformers_codellama.errors import ConfigError

LINEARS: Mapping[str, str] = {
    "wq": "attention",
    "wk": "attention",
    "wv": "attention",
    "wo": "attention",
    "w1": "feed_forward",
    "w2": "feed_forward",
    "w3": "feed_forward",
}
"""Linear layers of a block that can have an adapter, and what they are part of."""
PEFT_NAMES: Mapping[str, str] = {
    "wq": "q_proj",
    "wk": "k_proj",
    "wv": "v_proj",
    "wo": "o_proj",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
}
"""The same as Hugging Face and PEFT name them."""


@dataclass(frozen=True, kw_only=True)
class PetSection:
    """`model.model_config.pet_config`: train an adapter instead of the weights (docs/lora.md)."""

    pet_type: str = key("lora", choices=("lora",))
    """Kind of adapter; `lora` is the one value we have."""
    lora_rank: int = key(8, low=1)
    """r, rows of A and columns of B."""
    lora_alpha: float = key(16.0, above=0)
    """The product B A is multiplied by `lora_alpha / lora_rank`."""
    lora_dropout: float = key(0.01, low=0, high=0.99)
    """Share of the inputs of A that a step leaves out; needs the kernels on the CPU."""
    target_modules: str = ""
    """Regular expression; linear layers whose name (wq, wk, wv, wo, w1, w2, w3) begins with a match get an adapter."""
    exclude_layers: tuple[str, ...] = ()
    """Regular expressions; a layer is passed over when its name or number, or a name above it, begins with a match of one."""
    lora_a_init: str = key("normal", choices=("normal",))
    """MindFormers 1.9 does not look at it: A begins uniform within 1 / sqrt(I), as in PEFT. `normal` is the one value we have."""
    lora_b_init: str = key("zero", choices=("zero", "zeros"))
    """B begins as zeros, so that training begins at the model as it is; that is the one value we have."""
    param_init_type: str | None = key(None, choices=("float32",))
    """Type of A and B; they are float32 whatever the weights are."""
    compute_dtype: str | None = key(None, choices=DTYPES)
    """Type of the products with A and B; null, or the model's `compute_dtype`."""
    freeze_include: tuple[str, ...] = ()
    """Modules to freeze; empty is the one value we have: every weight of the model stays as it is."""
    freeze_exclude: tuple[str, ...] = ()
    """Modules not to freeze; empty is the one value we have."""

    def __post_init__(self) -> None:
        name = "model.model_config.pet_config"
        check_fields(self, name)
        for field in ("freeze_include", "freeze_exclude"):
            if getattr(self, field):
                problem = f"got {list(getattr(self, field))}; with an adapter all weights of the model are frozen, and only they."
                raise ConfigError(f"{name}.{field}", problem, fix="leave it out.")
        for field, pattern in (("target_modules", self.target_modules), *(("exclude_layers", item) for item in self.exclude_layers)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"{name}.{field}", f"got {pattern!r}, no regular expression: {error}.") from error
        if not self.linears:
            there = ", ".join(f"{ours} ({theirs})" for ours, theirs in PEFT_NAMES.items())
            problem = f"got {self.target_modules!r}, which matches no linear layer; there are (in brackets as in PEFT) {there}."
            raise ConfigError(f"{name}.target_modules", problem, fix="write '.*wq|.*wv', or '.*wq|.*wk|.*wv|.*wo|.*w1|.*w2|.*w3' for all.")

    @property
    def linears(self) -> tuple[str, ...]:
        """Names of `LINEARS` that have an adapter (in the layers that are not excluded)."""
        return tuple(name for name in LINEARS if self.target_modules and re.match(self.target_modules, name))

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.lora_alpha / self.lora_rank

    def modules(self, num_layers: int) -> tuple[str, ...]:
        """The linear layers that have an adapter, as `model.layers.0.attention.wq`, in the order of the network."""
        found = []
        for index in range(num_layers):
            for name in self.linears:
                path = ("layers", str(index), LINEARS[name], name)
                if not any(re.match(pattern, part) for pattern in self.exclude_layers for part in path):
                    found.append(f"model.{'.'.join(path)}")
        return tuple(found)
