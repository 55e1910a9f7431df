"""Conversations as the OpenAI API writes them, to prompt ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_codellama.errors import CodeLlamaError, GenerationError, raise_all
from mindformers_codellama.text.chat import Message, chat_ids
from mindformers_codellama.text.tokenizer import LlamaTokenizer

ROLES = ("system", "user", "assistant")
IGNORED_KEYS = ("name",)
"""Keys of the API that change no prompt of these models."""


def chat_prompt_ids(tokenizer: LlamaTokenizer, messages: Sequence[Mapping[str, Any]], *, style: str) -> list[int]:
    """Prompt ids after which the model writes the next assistant message.

    Args:
        tokenizer: of the model.
        messages: `{"role": ..., "content": ...}`, as in the OpenAI API: maybe one from `system`, then `user` and `assistant` in
            turn, the last from the user. Content is a text or a list of `{"type": "text", "text": ...}` parts. With
            `codellama-70b` a message may have a `destination`, as in Meta's code.
        style: `llama2` for Code Llama 7B, 13B and 34B Instruct, `codellama-70b`, or another name of `text.chat.CHAT_STYLES`.

    Raises:
        GenerationError: a message of another form, roles out of order, a tag of the style inside a text, an unknown style.
    """
    return chat_ids(tokenizer, read_messages(messages), style)


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages of the OpenAI API as ours.

    Raises:
        GenerationError: a message of another form; `Findings` of several.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        fix = 'write [{"role": "user", "content": "..."}].'
        raise GenerationError("messages", f"must be a list of messages, got {type(messages).__name__}.", fix=fix)
    found: list[Message] = []
    wrong: list[CodeLlamaError] = []
    for number, message in enumerate(messages):
        try:
            found.append(_message(f"messages[{number}]", message))
        except GenerationError as error:
            wrong.append(error)
    raise_all(wrong)
    return found


def _message(where: str, message: Any) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        problem = f"must have role and content, got {type(message).__name__}."
        raise GenerationError(where, problem, fix='write {"role": "user", "content": "..."}.')
    unknown = [str(key) for key in message if key not in ("role", "content", "destination", *IGNORED_KEYS) and message[key] is not None]
    if unknown:
        fix = "these models know texts only: no tools, images or audio."
        raise GenerationError(where, f"has the key {', '.join(unknown)}, which no prompt style has.", fix=fix)
    role = message.get("role")
    if role not in ROLES:
        raise GenerationError(f"{where}.role", f"got {role!r}.", fix=f"write one of {', '.join(ROLES)}.")
    destination = message.get("destination") or ""
    if not isinstance(destination, str) or "\n" in destination:
        raise GenerationError(f"{where}.destination", f"must be a text of one line, got {destination!r}.")
    return Message(role, _content(f"{where}.content", message.get("content")), destination)


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and content and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    raise GenerationError(where, "must be a text or a list of text parts.", fix="take images and audio out: these models know texts only.")
