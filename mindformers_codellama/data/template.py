"""What stands around questions and answers: FastChat's templates of the vicuna kind, and Meta's [INST] turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fastchat.conversation import SeparatorStyle, conv_templates

from mindformers_codellama.data.conversation import Conversation
from mindformers_codellama.errors import DataError
from mindformers_codellama.text.prompts import prompt_style

DEFAULT_TEMPLATE = "vicuna_v1.1"
INSTRUCT_TEMPLATE = "llama2"


class Round(NamedTuple):
    """One question with its answer as text; the tokenizer puts the end-of-sequence id behind it."""

    prompt: str
    """Text that is not learned, up to and including the mark before the answer, without a space at its end."""
    answer: str
    """Text that is learned, its leading space included; empty when there is no answer."""


@dataclass(frozen=True)
class Template:
    """One way to write a conversation as text."""

    name: str
    bos_each_round: bool
    """Meta's Instruct models see a beginning-of-sequence id before every round, vicuna only before the first."""

    def rounds(self, conversation: Conversation) -> list[Round]:
        """The rounds of a conversation in order."""
        return (_instruct_rounds if self.name == INSTRUCT_TEMPLATE else _vicuna_rounds)(self.name, conversation)


def template_names() -> tuple[str, ...]:
    """Names `open_template` knows: FastChat's templates whose rounds end with `</s>`, and `llama2`."""
    vicuna = (name for name, conv in conv_templates.items() if conv.sep_style == SeparatorStyle.ADD_COLON_TWO and conv.sep2 == "</s>")
    return (*sorted(vicuna), INSTRUCT_TEMPLATE)


def open_template(name: str) -> Template:
    """The template of that name.

    Raises:
        DataError: an unknown name, or one of FastChat's templates whose rounds do not end with the Llama end of sequence.
    """
    if name not in template_names():
        raise DataError("template", f"{name!r} is not known.", fix=f"write one of {', '.join(template_names())}.")
    return Template(name, bos_each_round=name == INSTRUCT_TEMPLATE)


def _vicuna_rounds(name: str, conversation: Conversation) -> list[Round]:
    """The pieces between `</s>` of FastChat's `get_prompt()`."""
    conv = conv_templates[name]
    user, assistant = conv.roles
    system = conv.system_message if conversation.system is None else conversation.system
    before = conv.system_template.format(system_message=system) + conv.sep
    rounds = []
    for question, answer in conversation.turns:
        asked = f"{user}: {question}" if question else f"{user}:"
        rounds.append(Round(f"{before}{asked}{conv.sep}{assistant}:", f" {answer}" if answer else ""))
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
