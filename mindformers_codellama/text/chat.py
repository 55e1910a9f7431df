"""Messages to prompt ids, exactly as the model was trained to see them.

A style is named after what the model was trained or finetuned on:

- `completion`: text to be continued; no roles.
- `llama2`: Meta's `[INST]` turns (Code Llama 7B, 13B, 34B Instruct).
- `codellama-70b`: Meta's `Source:` turns (70B Instruct).
- `vicuna`: finetuned on ShareGPT or `messages` files by `llama_preprocess` (FastChat's vicuna v1.1 text).
- `alpaca`: finetuned on an Alpaca file the same way: the Alpaca prompt inside the vicuna text.
- `alpaca-llama2`: an Alpaca file with the data template `llama2`.
- `alpaca-plain`: Stanford's Alpaca text alone, for models finetuned elsewhere.

Whole turns are encoded one by one, as in training: SentencePiece gives other ids for the joined text. All but
`completion` encode with `encode_pieces`, so nothing a user writes becomes a special token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from mindformers_codellama.errors import CodeLlamaError, GenerationError, raise_all
from mindformers_codellama.text.prompts import alpaca_prompt, prompt_style

if TYPE_CHECKING:
    from mindformers_codellama.text.tokenizer import LlamaTokenizer

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
STEP = "<step>"
USER = "user"
"""Whom every answer is for."""


class Message(NamedTuple):
    """One turn, or the system text before all turns."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    destination: str = ""
    """Who is spoken to, where the style writes it (`codellama-70b`); empty writes nothing."""


class Turn(NamedTuple):
    """A question and its answer."""

    question: Message
    answer: Message


class ChatStyle(NamedTuple):
    """How a conversation becomes ids."""

    name: str
    build: Callable[[LlamaTokenizer, Message | None, list[Turn], Message], list[int]]
    """(tokenizer, system message, answered turns, last question) to ids."""
    alpaca: bool
    """Questions stand inside the Alpaca prompt; every question is alone, as such models know no history."""
    forbidden: tuple[str, ...]
    """Tags that may not stand inside a message."""

    @property
    def remembers(self) -> bool:
        """Whether earlier turns are part of the prompt."""
        return not self.alpaca and self.name != "completion"

    @property
    def has_system(self) -> bool:
        """Whether there is a place for a system text."""
        return self.name not in ("completion", "alpaca-plain")


def _completion(tokenizer: LlamaTokenizer, system: Message | None, turns: list[Turn], question: Message) -> list[int]:
    return tokenizer.encode(question.content)


def _plain(tokenizer: LlamaTokenizer, system: Message | None, turns: list[Turn], question: Message) -> list[int]:
    return tokenizer.encode_pieces(question.content, bos=True, eos=False)


def _vicuna(tokenizer: LlamaTokenizer, system: Message | None, turns: list[Turn], question: Message) -> list[int]:
    """Begin token once, end token after every answer: the rows of llama_preprocess."""
    before = f"{(system and system.content) or VICUNA_SYSTEM} "
    ids: list[int] = []
    for asked, answered in turns:
        ids += tokenizer.encode_pieces(f"{before}USER: {asked.content} ASSISTANT: {answered.content}", bos=not ids, eos=True)
        before = ""
    return ids + tokenizer.encode_pieces(f"{before}USER: {question.content} ASSISTANT:", bos=not ids, eos=False)


def _llama2(tokenizer: LlamaTokenizer, system: Message | None, turns: list[Turn], question: Message) -> list[int]:
    """Each question with its answer between begin and end token; the system text, even an empty one, inside the first question.

    Source: codellama llama/generation.py `chat_completion`.
    """
    style = prompt_style("llama2")
    before = "" if system is None else f"{style.before_system}{system.content}{style.after_system}"
    ids: list[int] = []
    for asked, answered in turns:
        text = f"{style.before_user}{(before + asked.content).strip()}{style.after_user} {answered.content.strip()} "
        ids += tokenizer.encode_pieces(text, bos=True, eos=True)
        before = ""
    return ids + tokenizer.encode_pieces(f"{style.before_user}{(before + question.content).strip()}{style.after_user}", bos=True, eos=False)


def _codellama_70b(tokenizer: LlamaTokenizer, system: Message | None, turns: list[Turn], question: Message) -> list[int]:
    """Header and body of every message encoded apart, a step token behind; an empty system message when there is none.

    Source: codellama llama/generation.py `dialog_prompt_tokens`. The tokenizer file of 70B Instruct puts no implicit space before
    a text (its model card prints the ids), others do; both follow from the file.
    """
    step = step_token_id(tokenizer)
    ids = [tokenizer.bos_token_id]
    for message in [system or Message("system", ""), *(message for turn in turns for message in turn), question]:
        ids += tokenizer.encode_pieces(_header(message.role, message.destination), bos=False, eos=False)
        if message.content:
            ids += tokenizer.encode_pieces(f"\n\n {message.content.strip()}", bos=False, eos=False)
        ids.append(step)
    ids += tokenizer.encode_pieces(_header("assistant", USER), bos=False, eos=False)
    return ids + tokenizer.encode_pieces("\n\n ", bos=False, eos=False)


def _header(role: str, destination: str) -> str:
    return f" Source: {role}" + (f"\nDestination: {destination.strip()}" if destination else "")


_LLAMA2_TAGS = prompt_style("llama2").forbidden
CHAT_STYLES: Mapping[str, ChatStyle] = MappingProxyType(
    {
        style.name: style
        for style in (
            ChatStyle("completion", _completion, False, ()),
            ChatStyle("llama2", _llama2, False, _LLAMA2_TAGS),
            ChatStyle("codellama-70b", _codellama_70b, False, prompt_style("codellama-70b").forbidden),
            ChatStyle("vicuna", _vicuna, False, ()),
            ChatStyle("alpaca", _vicuna, True, ()),
            ChatStyle("alpaca-llama2", _llama2, True, _LLAMA2_TAGS),
            ChatStyle("alpaca-plain", _plain, True, ()),
        )
    }
)


def chat_style(name: str) -> ChatStyle:
    """The style of that name.

    Raises:
        GenerationError: an unknown name.
    """
    if name not in CHAT_STYLES:
        raise GenerationError("prompt style", f"unknown style {name!r}.", fix=f"write one of {', '.join(CHAT_STYLES)}.")
    return CHAT_STYLES[name]


def step_token_id(tokenizer: LlamaTokenizer) -> int:
    """Id of `<step>`, which ends every message of 70B Instruct.

    Raises:
        GenerationError: the tokenizer has none.
    """
    step = int(tokenizer.convert_tokens_to_ids(STEP))
    if step == tokenizer.unk_token_id:
        raise GenerationError(
            "prompt style",
            f"codellama-70b needs a {STEP} token, {tokenizer.path} has none.",
            fix="use the tokenizer of CodeLlama-70b-Instruct.",
        )
    return step


def chat_ids(tokenizer: LlamaTokenizer, messages: Sequence[Message], style: str, *, input_text: str = "") -> list[int]:
    """Prompt ids after which the model writes the next assistant message.

    Args:
        tokenizer: of the model.
        messages: maybe a system text, then user and assistant in turn, the last from the user.
        style: a name of `CHAT_STYLES`. Styles that do not remember see the last message alone.
        input_text: the `input` of an Alpaca record, for the Alpaca styles.

    Raises:
        GenerationError: unknown style, roles out of order, a tag of the style inside a message, a system text in a style
            without a place for it.
    """
    chosen = chat_style(style)
    system, turns, question = _parts(messages)
    require_system(style, system.content if system else "")
    raise_all(_injections(chosen, [*(text for message in messages for text in (message.content, message.destination)), input_text]))
    if not chosen.remembers:
        turns = []
    if chosen.alpaca:
        question = question._replace(content=alpaca_prompt(question.content, input_text))
    elif input_text:
        raise GenerationError("input", f"the prompt style {style} has no input.", fix="use an alpaca style, or write it into the prompt.")
    return chosen.build(tokenizer, system, turns, question)


def require_system(style: str, text: str) -> None:
    """Refuse a system text that a style cannot take.

    Raises:
        GenerationError: unknown style, a style without a place for it, or a tag of the style inside.
    """
    chosen = chat_style(style)
    if text and not chosen.has_system:
        able = ", ".join(name for name, other in CHAT_STYLES.items() if other.has_system)
        problem = f"the prompt style {style} has no place for a system text."
        raise GenerationError("system", problem, fix=f"leave it out, or ask a model that was trained on one of {able}.")
    raise_all(_injections(chosen, [text], where="system"))


def fitting_chat_ids(tokenizer: LlamaTokenizer, messages: Sequence[Message], style: str, room: int) -> tuple[list[int], int]:
    """The ids of `chat_ids` without the oldest turns, as many as have to go; a question goes with its answer.

    The system text and the last question stay, even when they alone are longer than `room`.

    Args:
        tokenizer: of the model.
        messages: as in `chat_ids`.
        style: as in `chat_ids`.
        room: most ids wanted.

    Returns:
        The ids, and the number of turns left out.

    Raises:
        GenerationError: as `chat_ids`; all messages are checked, those left out too.
    """
    ids = chat_ids(tokenizer, messages, style)
    first = int(messages[0].role == "system")
    turns = (len(messages) - first - 1) // 2
    left_out = 0
    while len(ids) > room and left_out < turns:
        left_out += 1
        ids = chat_ids(tokenizer, [*messages[:first], *messages[first + 2 * left_out :]], style)
    return ids, left_out


def style_stop_ids(tokenizer: LlamaTokenizer, style: str) -> tuple[int, ...]:
    """Ids that end an answer in this style."""
    if style == "codellama-70b":
        return (step_token_id(tokenizer), tokenizer.eos_token_id)
    return (tokenizer.eos_token_id,)


def before_tags(style: str, answer: str) -> str:
    """The answer of a model up to the first tag of the style, so that it can be part of the next prompt."""
    for tag in chat_style(style).forbidden:
        answer = answer.partition(tag)[0]
    return answer


def _injections(style: ChatStyle, texts: list[str], where: str = "message") -> list[CodeLlamaError]:
    """Tags that would forge a turn; Meta's code refuses to answer then, too."""
    return [
        GenerationError(where, f"special tag {tag} is not allowed in the prompt style {style.name}.", fix="take it out of the text.")
        for tag in style.forbidden
        if any(tag in text for text in texts)
    ]


def _parts(messages: Sequence[Message]) -> tuple[Message | None, list[Turn], Message]:
    rest = list(messages)
    system = rest.pop(0) if rest and rest[0].role == "system" else None
    for number, message in enumerate(rest):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            raise GenerationError(
                "messages",
                f"turn {number + 1} is from {message.role!r}, must be from {expected}: user and assistant alternate.",
                fix="one message from system may stand before all others." if message.role == "system" else "",
            )
    if len(rest) % 2 == 0:
        raise GenerationError("messages", "the last message must be from the user.")
    return system, [Turn(*rest[place : place + 2]) for place in range(0, len(rest) - 1, 2)], rest[-1]
