"""Prompt formats as data: the Alpaca texts of the seed, and what each prompt style puts around a user's words.

Source of the Alpaca texts: `tools/alpaca_converter.py` of MindFormers 1.0.2 (Stanford Alpaca); byte-exact, no trailing newline.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mindformers_codellama.errors import TokenizerError

ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


class PromptStyle(NamedTuple):
    """The fixed texts of one way to talk to a model; how they are joined and encoded is the chat layer's work."""

    name: str
    """As `config.families` names it."""
    before_user: str
    """Text before a user's words."""
    after_user: str
    """Text between the user's words and the answer."""
    before_system: str
    """Text before a system prompt."""
    after_system: str
    """Text after a system prompt."""
    forbidden: tuple[str, ...]
    """Tags that may not stand inside a message: they would end the turn."""
    source: str
    """Where the texts come from."""


PROMPT_STYLES: Mapping[str, PromptStyle] = MappingProxyType(
    {
        "completion": PromptStyle("completion", "", "", "", "", (), "the model continues the text as it is"),
        "llama2": PromptStyle(
            "llama2",
            "[INST] ",
            " [/INST]",
            "<<SYS>>\n",
            "\n<</SYS>>\n\n",
            ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>"),
            "codellama e81b597 llama/generation.py (7B, 13B and 34B Instruct)",
        ),
        "codellama-70b": PromptStyle(
            "codellama-70b",
            " Source: user\n\n ",
            "<step> Source: assistant\nDestination: user\n\n ",
            " Source: system\n\n ",
            "<step>",
            ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>"),
            "codellama e81b597 llama/generation.py:506 (70B Instruct; each part is encoded by itself)",
        ),
    }
)


def alpaca_prompt(instruction: str, input_text: str = "") -> str:
    """The seed's Alpaca prompt; an empty input selects the shorter text.

    Braces in the instruction or input are kept as they are.
    """
    template = ALPACA_WITH_INPUT if input_text else ALPACA_WITHOUT_INPUT
    return template.format_map({"instruction": instruction, "input": input_text})


def prompt_style(name: str) -> PromptStyle:
    """The style of that name; `TokenizerError` with the known names otherwise."""
    if name not in PROMPT_STYLES:
        raise TokenizerError("prompt_style", f"unknown prompt style {name!r}.", fix=f"write one of {', '.join(PROMPT_STYLES)}.")
    return PROMPT_STYLES[name]
