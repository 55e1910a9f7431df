"""The model registry: every Code Llama and Llama 2 as one table of facts, with the source of each row.

Sizes come from Meta's params.json and the `config.json` of the Hugging Face repositories; positions
and rotary base from the same and from codellama issue 188 (the 70B-Instruct and 70B-Python
exceptions); who can infill from Meta's MODEL_CARD.md; the stop ids and prompt styles from Meta's
`llama/generation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import ConfigError

PROMPT_STYLES = ("completion", "llama2", "codellama-70b")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of one published model."""

    name: str
    """Registry name, such as `codellama_7b_instruct`."""
    config: ModelConfig
    """Sizes and rotary settings; types are left at float32, a run chooses its own."""
    can_infill: bool
    """Has the four infilling pieces and was trained with them; the project's own small model can be trained so."""
    prompt_style: str
    """`completion` (plain text), `llama2` (`[INST]` turns) or `codellama-70b` (`Source:` turns)."""
    stop_token_ids: tuple[int, ...]
    """Ids that end an answer."""
    source: str
    """Where the row's numbers are from."""
    suffix_first: bool | None = None
    """The infilling order that is better at every cursor, where that was measured; None: the cursor decides."""


_SIZES: Mapping[str, Mapping[str, Any]] = {
    "7b": {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "intermediate_size": 11008},
    "13b": {"hidden_size": 5120, "num_layers": 40, "num_heads": 40, "num_kv_heads": 40, "intermediate_size": 13824},
    "34b": {"hidden_size": 8192, "num_layers": 48, "num_heads": 64, "num_kv_heads": 8, "intermediate_size": 22016},
    "70b": {"hidden_size": 8192, "num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "intermediate_size": 28672},
}

_HF = "huggingface.co/codellama/CodeLlama-{} config.json"
_CARD = _HF + "; infilling: codellama MODEL_CARD.md"
_LATE_70B = _HF + "; theta and positions: codellama issue 188"

# name, size, vocabulary, theta, positions, infilling, prompt style, stop ids, source
_ROWS = (
    ("codellama_7b", "7b", 32016, 1e6, 16384, True, "completion", (2,), _CARD.format("7b-hf")),
    ("codellama_7b_python", "7b", 32000, 1e6, 16384, False, "completion", (2,), _HF.format("7b-Python-hf")),
    ("codellama_7b_instruct", "7b", 32016, 1e6, 16384, True, "llama2", (2,), _CARD.format("7b-Instruct-hf")),
    ("codellama_13b", "13b", 32016, 1e6, 16384, True, "completion", (2,), _CARD.format("13b-hf")),
    ("codellama_13b_python", "13b", 32000, 1e6, 16384, False, "completion", (2,), _HF.format("13b-Python-hf")),
    ("codellama_13b_instruct", "13b", 32016, 1e6, 16384, True, "llama2", (2,), _CARD.format("13b-Instruct-hf")),
    ("codellama_34b", "34b", 32000, 1e6, 16384, False, "completion", (2,), _HF.format("34b-hf")),
    ("codellama_34b_python", "34b", 32000, 1e6, 16384, False, "completion", (2,), _HF.format("34b-Python-hf")),
    ("codellama_34b_instruct", "34b", 32000, 1e6, 16384, False, "llama2", (2,), _HF.format("34b-Instruct-hf")),
    ("codellama_70b", "70b", 32016, 1e6, 16384, True, "completion", (2,), _CARD.format("70b-hf")),
    ("codellama_70b_python", "70b", 32016, 1e4, 4096, False, "completion", (2,), _LATE_70B.format("70b-Python-hf")),
    ("codellama_70b_instruct", "70b", 32016, 1e4, 4096, False, "codellama-70b", (32015, 2), _LATE_70B.format("70b-Instruct-hf")),
    ("llama2_7b", "7b", 32000, 1e4, 4096, False, "completion", (2,), "huggingface.co/meta-llama/Llama-2-7b-hf config.json"),
    ("llama2_13b", "13b", 32000, 1e4, 4096, False, "completion", (2,), "huggingface.co/meta-llama/Llama-2-13b-hf config.json"),
    ("llama2_70b", "70b", 32000, 1e4, 4096, False, "completion", (2,), "huggingface.co/meta-llama/Llama-2-70b-hf config.json"),
)

_TINY = ModelFacts(
    name="codellama_tiny",
    config=ModelConfig(
        vocab_size=2048,
        hidden_size=192,
        num_layers=4,
        num_heads=6,
        num_kv_heads=2,
        intermediate_size=512,
        seq_length=256,
        max_position=256,
        rope_theta=1e6,
    ),
    can_infill=True,
    prompt_style="completion",
    stop_token_ids=(2,),
    source="this project: small enough to train on two CPU cores in minutes; grouped heads and theta as in 34B",
)


_DEMO = ModelFacts(
    name="codellama_demo",
    config=ModelConfig(
        vocab_size=4096,
        hidden_size=256,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=704,
        seq_length=256,
        max_position=256,
        rope_theta=1e6,
    ),
    can_infill=True,
    prompt_style="completion",
    stop_token_ids=(2,),
    source="this project: made by scripts/train_demo.sh from Python's standard library",
    suffix_first=True,  # it hardly finds the prefix behind <MID> (figures on its card)
)
_DEMO_INSTRUCT = replace(_DEMO, name="codellama_demo_instruct", prompt_style="llama2")


def _facts(row: tuple[str, str, int, float, int, bool, str, tuple[int, ...], str]) -> ModelFacts:
    name, size, vocab_size, theta, positions, infill, style, stops, source = row
    shared = ModelConfig(vocab_size=vocab_size, rope_theta=theta, max_position=positions, seq_length=4096)
    config = replace(shared, **_SIZES[size])
    return ModelFacts(name=name, config=config, can_infill=infill, prompt_style=style, stop_token_ids=stops, source=source)


FAMILIES: Mapping[str, ModelFacts] = MappingProxyType({facts.name: facts for facts in (*map(_facts, _ROWS), _TINY, _DEMO, _DEMO_INSTRUCT)})
"""Registry name to facts; read-only."""


def model_facts(name: str) -> ModelFacts:
    """The facts of a model, by registry name or by its Hugging Face name in any case.

    Args:
        name: `codellama_7b_instruct`, or `codellama/CodeLlama-7b-Instruct-hf`.

    Raises:
        ConfigError: an unknown name, with the nearest known one.
    """
    plain = name.rsplit("/", 1)[-1].lower().replace("-", "_").removesuffix("_hf").replace("llama_2_", "llama2_")
    for candidate in (name, plain):
        if candidate in FAMILIES:
            return FAMILIES[candidate]
    near = get_close_matches(plain, FAMILIES, n=1)
    raise ConfigError(
        "model", f"{name!r} is not in the model registry.", fix=f"did you mean {near[0]}?" if near else f"one of {', '.join(FAMILIES)}."
    )
