"""Fill in the middle: cursors in texts to what belongs there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any

from mindformers_codellama.config.generation import OPTION_NAMES, GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.infill_stop import infill_stop, require_until
from mindformers_codellama.generation.loop import Listeners
from mindformers_codellama.generation.protocol import OnText
from mindformers_codellama.generation.result import GenerationResult, GenerationStats, joined
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.pipelines.generating import CausalLM
from mindformers_codellama.pipelines.infilling_input import read_inputs
from mindformers_codellama.pipelines.text_generation import TextGenerationPipeline
from mindformers_codellama.text.holes import FILL_MARK, Hole
from mindformers_codellama.text.infilling import infilling_pieces, order_of_model, require_infilling
from mindformers_codellama.text.infilling_fit import Snippet, comment_mark
from mindformers_codellama.text.infilling_prompt import FRAME, InfillingPrompt, infilling_prompt
from mindformers_codellama.text.stream import without_cut_character
from mindformers_codellama.text.tokenizer import LlamaTokenizer

logger = logging.getLogger(__name__)

OUTPUT_KEY = "infilling_text"
MIDDLE_LENGTH = 128
"""Longest middle in tokens when nothing is said; at most half of the model's length."""


@dataclass(frozen=True, kw_only=True)
class InfillOptions:
    """How a middle is asked for and where it ends.

    Raises:
        GenerationError: another word for `until`, a context that is not pairs of path and text, another value of the wrong type.
    """

    suffix_first: bool | None = None
    """Order SPM; None: the model's own order, or by the cursor."""
    until: str = "block"
    """`eot`, `line` or `block`, see `generation.infill_stop`."""
    heal: bool = True
    """Take off the end of a prefix that ends inside a token."""
    context: Sequence[tuple[str, str]] = ()
    """(path, text) of other files, the most helpful first."""
    path: str = ""
    """File of the cursor; its ending chooses the comment mark."""

    def __post_init__(self) -> None:
        require_until(self.until)
        types = (("suffix_first", (bool, NoneType), "True, False or None"), ("heal", (bool,), "True or False"), ("path", (str,), "a text"))
        for name, kinds, words in types:
            if not isinstance(getattr(self, name), kinds):
                raise GenerationError(name, f"got {getattr(self, name)!r}.", fix=f"write {words}.")
        for entry in self.context:
            if isinstance(entry, str) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
                raise GenerationError("context", f"must be pairs of path and text, got {entry!r}.", fix='write [("path", "text")].')

    @property
    def snippets(self) -> list[Snippet]:
        """The context as the prompt takes it."""
        return [Snippet(*entry) for entry in self.context]


@dataclass(frozen=True, kw_only=True)
class Infilling:
    """One middle."""

    hole: Hole
    middle: str
    """What belongs at the cursor, with the line ends of the text."""
    finish_reason: str
    """`eos` (the model ended it), `stop` (a stop rule or string), `length`, or `cancelled`."""
    prompt: InfillingPrompt
    new_ids: list[int]
    """What the model wrote, healed text included, the end token included, nothing behind a stop."""

    @property
    def text(self) -> str:
        """The text with the middle in it; all around it is unchanged."""
        return self.hole.filled(self.middle)


class InfillingPipeline:
    """`pipeline("infilling", ...)`: called with texts that have a `<FILL>` mark, or with prefixes and suffixes.

    Args:
        model: the model with its weights.
        tokenizer: of the model.
        batch_size: cursors answered at once.
        name: registry name of the model, where it is known.
        options: fields of `InfillOptions`, and generation options in our names or MindFormers', that hold for every call.

    Raises:
        GenerationError: a model that cannot infill, with the reason and those that can; an unknown option; beam search.
        TokenizerError: the vocabularies disagree.
    """

    def __init__(self, model: CausalLM, tokenizer: LlamaTokenizer, *, batch_size: int = 1, name: str = "", **options: Any) -> None:
        require_infilling(tokenizer, model.config, name)
        self._order = order_of_model(model.config, name)
        self._texts = TextGenerationPipeline(model, tokenizer, batch_size=batch_size)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        # the model's own limits are those of answers and count the prompt; a middle has its own
        self.infill, options = split_options(InfillOptions(), options)
        self.generation = self._updated(replace(model.generation, max_new_tokens=None), options)
        self.stats: GenerationStats | None = None
        """Speed of the last call."""

    def __call__(
        self,
        inputs: Any,
        *,
        mark: str = FILL_MARK,
        batch_size: int | None = None,
        on_text: OnText | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Fill in.

        Args:
            inputs: a text with one or several marks; a pair `(prefix, suffix)`; `{"prefix": ..., "suffix": ...}`; or a list of
                these. A text with several marks is filled in from the first to the last, each seeing the ones before.
            mark: what stands where something is missing.
            batch_size: cursors at once, instead of the pipeline's.
            on_text: called with (number of the input, new text) while it is made.
            options: fields of `InfillOptions` and generation options, instead of the pipeline's.

        Returns:
            Per input `infilling_text` (the whole text), `middles` and `finish_reasons` (one per cursor).

        Raises:
            GenerationError: an input of another form, or an option that cannot be.
            ConfigError: a text without the mark.
        """
        texts = read_inputs(inputs, mark)
        infill, options = split_options(self.infill, options)
        config = self._updated(self.generation, options)
        done = self.fill(texts, infill, config, batch_size=batch_size, listeners=Listeners(on_text=on_text))
        return [
            {OUTPUT_KEY: found[-1].text, "middles": [one.middle for one in found], "finish_reasons": [one.finish_reason for one in found]}
            for found in done
        ]

    def fill(
        self,
        texts: Sequence[Sequence[str]],
        infill: InfillOptions,
        config: GenerationConfig,
        *,
        batch_size: int | None = None,
        listeners: Listeners | None = None,
    ) -> list[list[Infilling]]:
        """Fill in texts with one or several cursors each, from the first cursor to the last.

        Args:
            texts: the parts between the cursors, at least two per text.
            infill: how to ask.
            config: as in `run`.
            batch_size: as in `run`.
            listeners: as in `run`; they are told the number of the text.

        Returns:
            Per text one infilling per cursor; fewer when it was cancelled.
        """
        listeners = listeners or Listeners()
        done: list[list[Infilling]] = [[] for _ in texts]
        results: list[GenerationResult] = []
        for turn in range(max((len(parts) - 1 for parts in texts), default=0)):
            rows = [row for row, parts in enumerate(texts) if len(parts) > turn + 1]
            holes = [self._hole(texts[row], done[row]) for row in rows]
            hear = replace(listeners, on_text=_renumbered(listeners.on_text, rows))
            found, result = self.run(holes, infill, config, batch_size=batch_size, listeners=hear)
            results.append(result)
            for row, infilling in zip(rows, found, strict=False):  # fewer when cancelled
                done[row].append(infilling)
            if "cancelled" in result.finish_reasons:
                break
        self.stats = joined(results).stats if results else None
        return done

    @staticmethod
    def _hole(parts: Sequence[str], done: list[Infilling]) -> Hole:
        """The next cursor of a text: what was filled in before it is part of its prefix, later marks are left out."""
        before, suffix = done[-1].text if done else "".join(parts), "".join(parts[len(done) + 1 :])
        return Hole(before[: len(before) - len(suffix)], suffix)

    def run(
        self,
        holes: Sequence[Hole],
        infill: InfillOptions,
        config: GenerationConfig,
        *,
        batch_size: int | None = None,
        listeners: Listeners | None = None,
    ) -> tuple[list[Infilling], GenerationResult]:
        """Fill in cursors, with everything there is to know of each.

        Args:
            holes: at least one cursor.
            infill: how to ask.
            config: every generation option; `eot` is added to its end tokens.
            batch_size: cursors at once, instead of the pipeline's.
            listeners: hear middles while they are made; text has LF line ends and no healed text.

        Raises:
            GenerationError, TokenizerError: as `generation.loop.generate_rows`.
        """
        config = self.completed(config)
        prompts, rules = map(list, zip(*(self.request(hole, infill, config) for hole in holes), strict=True))
        cut = sum(prompt.trimmed for prompt in prompts)
        if cut:
            room = self.model.decoder(use_past=config.use_past).max_length
            logger.info("%d of %d cursors: the model sees the part of the text nearest to it, %d positions.", cut, len(prompts), room)
        ids = [prompt.ids for prompt in prompts]
        result = self._texts.run(ids, config, batch_size=batch_size, listeners=listeners, rules=rules)
        return infillings(holes, prompts, result), result

    def completed(self, config: GenerationConfig) -> GenerationConfig:
        """The options with the longest middle and the end tokens filled in.

        Raises:
            GenerationError: no room for prompts.
        """
        room = self.model.decoder(use_past=config.use_past).max_length
        longest = config.max_new_tokens or max(1, min(MIDDLE_LENGTH, room // 2))
        if longest + FRAME >= room:
            problem = f"got {longest}, the model has {room} positions for prompt and middle together."
            raise GenerationError("max_new_tokens", problem, fix="ask for fewer, or use a model with a larger seq_length.")
        ends = dict.fromkeys((infilling_pieces(self.tokenizer).end, *config.eos_token_ids))
        return config.updated(max_new_tokens=longest, eos_token_id=ends)

    def request(self, hole: Hole, infill: InfillOptions, config: GenerationConfig) -> tuple[InfillingPrompt, AnswerRule]:
        """What the model is given for a cursor, and where its answer ends.

        Args:
            hole: the cursor.
            infill: how to ask.
            config: from `completed`.

        Raises:
            GenerationError, TokenizerError: as `text.infilling_prompt.infilling_prompt`.
        """
        assert config.max_new_tokens is not None
        room = self.model.decoder(use_past=config.use_past).max_length
        prompt = self.prompt(hole, infill, room - config.max_new_tokens)
        return prompt, self._rule(prompt, infill)

    def prompt(self, hole: Hole, infill: InfillOptions, room: int) -> InfillingPrompt:
        """What the model reads for a cursor, in at most `room` ids."""
        order = self._order if infill.suffix_first is None else infill.suffix_first
        return infilling_prompt(self.tokenizer, *hole, suffix_first=order, heal=infill.heal, room=room, context=infill.snippets)

    def _rule(self, prompt: InfillingPrompt, infill: InfillOptions) -> AnswerRule:
        stop = infill_stop(prompt.prefix, prompt.suffix, until=infill.until, comment=comment_mark(infill.path))
        return AnswerRule(begins=prompt.healed, stop=stop, apart=True)

    @staticmethod
    def _updated(config: GenerationConfig, options: Mapping[str, Any]) -> GenerationConfig:
        length = next((name for name in options if OPTION_NAMES.get(name, name) == "max_length" and options[name] is not None), None)
        if length is not None:
            problem = "counts the prompt, and an infilling prompt is made to fit."
            raise GenerationError(length, problem, fix="write max_new_tokens, the longest middle.")
        config = config.updated(**options)
        if config.num_beams > 1:
            raise GenerationError("num_beams", f"got {config.num_beams}; infilling has no beam search.", fix="use num_beams 1.")
        return config


def infillings(holes: Sequence[Hole], prompts: Sequence[InfillingPrompt], result: GenerationResult) -> list[Infilling]:
    """The middles of answers that were made with texts; fewer than cursors when the last ones were cancelled."""
    assert result.texts is not None
    texts = (without_cut_character(text, why) for text, why in zip(result.texts, result.finish_reasons, strict=False))
    return [
        Infilling(
            hole=hole,
            middle=hole.with_line_ends(text),
            finish_reason=result.finish_reasons[row],
            prompt=prompt,
            new_ids=result.new_ids(row).tolist(),
        )
        for row, (hole, prompt, text) in enumerate(zip(holes, prompts, texts, strict=False))
    ]


def split_options(base: InfillOptions, options: Mapping[str, Any]) -> tuple[InfillOptions, dict[str, Any]]:
    """`base` with the fields that are among the options, and the other options."""
    own = {field.name for field in fields(InfillOptions)}
    infill = replace(base, **{name: value for name, value in options.items() if name in own})
    return infill, {name: value for name, value in options.items() if name not in own}


def _renumbered(on_text: OnText | None, rows: Sequence[int]) -> OnText | None:
    return None if on_text is None else lambda row, piece: on_text(rows[row], piece)
