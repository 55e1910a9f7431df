"""Records of the three common forms to one: a conversation of question and answer turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindformers_codellama.data.records import Record
from mindformers_codellama.errors import DataError
from mindformers_codellama.text.prompts import alpaca_prompt

FORMATS = ("alpaca", "sharegpt", "messages")

_OWN_KEYS = {"alpaca": ("instruction", "output"), "sharegpt": ("conversations",), "messages": ("messages",)}
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "chatgpt": "gpt", "model": "gpt", "system": "system"}


@dataclass(frozen=True)
class Conversation:
    """Turns that begin with a question and alternate."""

    turns: tuple[tuple[str, str], ...]
    """(question, answer) in order; at least one. An empty answer leaves nothing to learn in its round."""
    system: str | None = None
    """System text of the record; None takes the template's."""
    dropped_turn: bool = False
    """A last question without an answer was left out."""


class BadRecord(Exception):
    """Why a record cannot be used; `reason` groups equal causes, the text says what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail.removesuffix('.')}." if detail else f"{reason}.")


def json_kind(value: object) -> str:
    """What JSON calls a value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    kinds = ((str, "a text"), ((int, float), "a number"), (list, "a list"), (Mapping, "an object"))
    return next(name for kind, name in kinds if isinstance(value, kind))


def detect_format(value: object) -> str | None:
    """Which of FORMATS a record looks like; None when it is none of them."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("conversations"), list):
        return "sharegpt"
    if isinstance(value.get("messages"), list):
        return "messages"
    if "instruction" in value and "output" in value:
        return "alpaca"
    return None


def require_format(value: object, where: object) -> str:
    """`detect_format`, or a DataError that names the three forms."""
    found = detect_format(value)
    if found is None:
        seen = f"keys {sorted(map(str, value))[:8]}" if isinstance(value, Mapping) else json_kind(value)
        raise DataError(
            where,
            f"unknown kind of record ({seen}).",
            fix="records are Alpaca {instruction, input, output}, ShareGPT {conversations: [{from, value}]} "
            "or OpenAI {messages: [{role, content}]}; for pretraining text use --text.",
        )
    return found


def form_of(record: Record) -> str:
    """The form of a file, told by its first record.

    Raises:
        DataError: the record is not readable, or none of the three forms.
    """
    if record.problem:
        raise DataError(record.place, record.problem, fix="correct the file; its first record decides which kind of records it holds.")
    return require_format(record.value, record.place)


def to_conversation(value: Any, form: str) -> Conversation:
    """The conversation a record holds.

    Args:
        value: parsed JSON.
        form: one of FORMATS.

    Raises:
        BadRecord: missing keys, wrong types, roles that do not alternate, no answer, an empty question.
    """
    if not isinstance(value, Mapping):
        raise BadRecord("not an object", f"got {json_kind(value)}")
    other = detect_format(value)
    if other not in (None, form) and not any(name in value for name in _OWN_KEYS[form]):
        raise BadRecord(
            "another kind of record", f"this one is {other}, but the file is read as {form}; keep the kinds in files of their own"
        )
    if form == "alpaca":
        return _from_alpaca(value)
    key, role, content = ("conversations", "from", "value") if form == "sharegpt" else ("messages", "role", "content")
    messages = value.get(key)
    if not isinstance(messages, list) or not messages:
        raise BadRecord("no messages", f"{key} must be a list that is not empty")
    return _from_messages([_message(message, role, content) for message in messages], key)


def _from_alpaca(value: Mapping[str, Any]) -> Conversation:
    for key in ("instruction", "output"):
        if key not in value:
            raise BadRecord("missing key", f"{key!r}; an Alpaca record has instruction, input and output")
    texts: dict[str, str] = {}
    for key in ("instruction", "input", "output"):
        text = value.get(key)
        if not isinstance(text, str | None):
            raise BadRecord("not text", f"{key} is {json_kind(text)}")
        texts[key] = text or ""
    if not texts["instruction"].strip():
        raise BadRecord("empty question", "instruction holds no text")
    return Conversation(((alpaca_prompt(texts["instruction"], texts["input"]), texts["output"]),))


def _message(message: object, role_key: str, content_key: str) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise BadRecord("not a message", f"got {json_kind(message)}, need {{{role_key}, {content_key}}}")
    role, content = message.get(role_key), message.get(content_key)
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRecord("unknown role", f"{role_key} is {role!r}, known: {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise BadRecord("not text", f"{content_key} of {role} is {json_kind(content)}")
    return _ROLES[role], content


def _from_messages(messages: list[tuple[str, str]], key: str) -> Conversation:
    system = None
    if messages[0][0] == "system":
        system, messages = messages[0][1], messages[1:]
    if messages and messages[0][0] == "gpt":  # MindFormers drops a greeting before the first question too
        messages = messages[1:]
    for number, (role, _) in enumerate(messages):
        expected = ("human", "gpt")[number % 2]
        if role != expected:
            raise BadRecord("roles do not alternate", f"{key}[{number}] is {role}, expected {expected}")
    turns = tuple((messages[i][1], messages[i + 1][1]) for i in range(0, len(messages) - 1, 2))
    if not turns:
        raise BadRecord("no answer", f"{key} holds no question with an answer")
    for question, _ in turns:
        if not question.strip():
            raise BadRecord("empty question", "a question holds no text")
    return Conversation(turns, system, dropped_turn=len(messages) % 2 == 1)
