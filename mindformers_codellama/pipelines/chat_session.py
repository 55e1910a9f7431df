"""A conversation with a model: history, prompts that fit, answers as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.loop import Listeners, generate_rows
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.generation.result import GenerationResult
from mindformers_codellama.text.chat import USER, Message, before_tags, chat_style, fitting_chat_ids, require_system, style_stop_ids
from mindformers_codellama.text.tokenizer import LlamaTokenizer

logger = logging.getLogger(__name__)


class ChatSession:
    """One conversation.

    Args:
        decoder: the model.
        tokenizer: of the model.
        config: options of every answer; the style's end tokens and tags are added to its own.
        style: a name of `text.chat.CHAT_STYLES`.
        system: system text; empty is the style's own.

    Raises:
        GenerationError: unknown style, a tokenizer without the style's tokens, or a system text the style cannot take.
    """

    def __init__(self, decoder: Decoder, tokenizer: LlamaTokenizer, config: GenerationConfig, *, style: str, system: str = "") -> None:
        chosen = chat_style(style)
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.style = style
        self._system = ""
        self.system = system
        self.config = config.updated(
            eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *style_stop_ids(tokenizer, style)))),
            # An answer that holds a tag of the style would be refused as history.
            stop_strings=config.stop_strings if config.num_beams > 1 else (*config.stop_strings, *chosen.forbidden),
        )
        self.history: list[Message] = []

    @property
    def system(self) -> str:
        """System text; empty is the style's own. Setting it is refused, and the old one stays, where the style cannot take it."""
        return self._system

    @system.setter
    def system(self, text: str) -> None:
        require_system(self.style, text)
        self._system = text

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self.history.clear()

    def ask(
        self,
        question: str,
        *,
        on_text: Callable[[str], object] | None = None,
        should_stop: Callable[[], bool] | None = None,
        first_row: int = 0,
    ) -> GenerationResult:
        """Answer, and remember question and answer. After an error nothing is remembered.

        Args:
            question: the user's words.
            on_text: hears the answer as it comes; not with beam search.
            should_stop: asked before every token; a cancelled answer is remembered as far as it came.
            first_row: number that chooses the random numbers of this answer.

        Raises:
            GenerationError: tags of the style in the question, or a question too long for the model.
        """
        prompt = self._fitting_prompt(question)
        listeners = Listeners(
            on_text=None if on_text is None or self.config.num_beams > 1 else lambda _, piece: on_text(piece),
            should_stop=should_stop,
        )
        result = generate_rows(self.decoder, [prompt], self.config, tokenizer=self.tokenizer, listeners=listeners, first_row=first_row)
        assert result.texts is not None
        if chat_style(self.style).remembers:
            answer = before_tags(self.style, result.texts[0]).strip()  # beam search does not stop at tags
            self.history += [Message("user", question), Message("assistant", answer, USER)]
        return result

    def _fitting_prompt(self, question: str) -> list[int]:
        """Ids of the conversation; the oldest turns are forgotten when they leave too little room."""
        wanted = self.config.max_new_tokens or max(1, self.decoder.max_length // 4)
        room = self.decoder.max_length - min(wanted, self.decoder.max_length // 2)
        system = [Message("system", self.system)] if self.system else []
        ids, forgotten = fitting_chat_ids(self.tokenizer, [*system, *self.history, Message("user", question)], self.style, room)
        if len(ids) >= self.decoder.max_length:
            problem = f"is {len(ids)} tokens long with its prompt, the model has {self.decoder.max_length} positions."
            raise GenerationError("question", problem, fix="ask something shorter.")
        if forgotten:
            logger.warning("the oldest %d turns no longer fit %d positions and are forgotten.", forgotten, self.decoder.max_length)
            del self.history[: 2 * forgotten]
        return ids
