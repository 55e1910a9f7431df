"""What stands around questions and answers: templates of the vicuna kind, and Meta's [INST] turns.

`vicuna_v1.1` and `llama2` are built in. Every other template of the vicuna kind is FastChat's and needs that package,
`pip install "mindformers_codellama[templates]"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mindformers_codellama.data.conversation import Conversation
from mindformers_codellama.errors import DataError
from mindformers_codellama.text.prompts import prompt_style

DEFAULT_TEMPLATE = "vicuna_v1.1"
INSTRUCT_TEMPLATE = "llama2"
FASTCHAT_EXTRA = 'pip install "mindformers_codellama[templates]"'


class Round(NamedTuple):
    """One question with its answer as text; the tokenizer puts the end-of-sequence id behind it."""

    prompt: str
    """Text that is not learned, up to and including the mark before the answer, without a space at its end."""
    answer: str
    """Text that is learned, its leading space included; empty when there is no answer."""


class Wording(NamedTuple):
    """The texts of a template of the vicuna kind: `system user: question assistant: answer</s>`."""

    user: str
    assistant: str
    separator: str
    """Stands behind the system text and behind each question."""
    system_template: str
    """Holds `{system_message}`."""
    system: str
    """The system text of a conversation that brings none."""


VICUNA_V1_1 = Wording(
    user="USER",
    assistant="ASSISTANT",
    separator=" ",
    system_template="{system_message}",
    system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
)
"""Source: FastChat 0.2.36, fastchat/conversation.py:472 (the file MindFormers' llama_preprocess.py carries a copy of)."""


@dataclass(frozen=True)
class Template:
    """One way to write a conversation as text."""

    name: str
    bos_each_round: bool
    """Meta's Instruct models see a beginning-of-sequence id before every round, vicuna only before the first."""
    wording: Wording | None = None
    """Texts of a template of the vicuna kind; None is `llama2`."""

    def rounds(self, conversation: Conversation) -> list[Round]:
        """The rounds of a conversation in order."""
        return _instruct_rounds(self.name, conversation) if self.wording is None else _vicuna_rounds(self.wording, conversation)


def template_names() -> tuple[str, ...]:
    """Names `open_template` knows: the built-in ones and, when FastChat is installed, its templates whose rounds end with `</s>`."""
    return (*sorted({DEFAULT_TEMPLATE, *(_fastchat_wordings() or {})}), INSTRUCT_TEMPLATE)


def open_template(name: str) -> Template:
    """The template of that name.

    Raises:
        DataError: an unknown name, one of FastChat's templates whose rounds do not end with the Llama end of sequence, or
            a name that is not built in while FastChat is not installed.
    """
    if name == INSTRUCT_TEMPLATE:
        return Template(name, bos_each_round=True)
    if name == DEFAULT_TEMPLATE:
        return Template(name, bos_each_round=False, wording=VICUNA_V1_1)
    wordings = _fastchat_wordings()
    if wordings is None:
        raise DataError(
            "template",
            f"{name!r} is not built in, and FastChat, which has others, is not installed.",
            fix=f"write one of {', '.join(template_names())}, or for FastChat's {FASTCHAT_EXTRA}.",
        )
    if name not in wordings:
        raise DataError("template", f"{name!r} is not known.", fix=f"write one of {', '.join(template_names())}.")
    return Template(name, bos_each_round=False, wording=wordings[name])


def _fastchat_wordings() -> Mapping[str, Wording] | None:
    """FastChat's templates of the vicuna kind whose rounds end with `</s>`; None when it is not installed."""
    try:
        from fastchat.conversation import SeparatorStyle, conv_templates
    except ImportError:
        return None
    return {
        name: Wording(conv.roles[0], conv.roles[1], conv.sep, conv.system_template, conv.system_message)
        for name, conv in conv_templates.items()
        if conv.sep_style == SeparatorStyle.ADD_COLON_TWO and conv.sep2 == "</s>"
    }


def _vicuna_rounds(wording: Wording, conversation: Conversation) -> list[Round]:
    """The pieces between `</s>` of FastChat's `get_prompt()`."""
    system = wording.system if conversation.system is None else conversation.system
    before = wording.system_template.format(system_message=system) + wording.separator
    rounds = []
    for question, answer in conversation.turns:
        asked = f"{wording.user}: {question}" if question else f"{wording.user}:"
        rounds.append(Round(f"{before}{asked}{wording.separator}{wording.assistant}:", f" {answer}" if answer else ""))
        before = ""
    return rounds


def _instruct_rounds(name: str, conversation: Conversation) -> list[Round]:
    """`[INST] question [/INST] answer `, the system text inside the first question, both sides stripped as Meta does."""
    style = prompt_style(name)
    system = f"{style.before_system}{conversation.system}{style.after_system}" if conversation.system else ""
    rounds = []
    for question, answer in conversation.turns:
        rounds.append(
            Round(f"{style.before_user}{(system + question).strip()}{style.after_user}", f" {answer.strip()} " if answer.strip() else "")
        )
        system = ""
    return rounds
