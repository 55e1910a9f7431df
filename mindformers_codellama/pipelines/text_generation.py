"""Text in, text out: prompts of any number and length, in batches, order kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.loop import Listeners, generate_rows
from mindformers_codellama.generation.prompts import check_prompts, warn_of_cuts
from mindformers_codellama.generation.protocol import OnText, Streamer
from mindformers_codellama.generation.result import GenerationResult, joined
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.parallel.agreement import gather, together
from mindformers_codellama.pipelines.generating import CausalLM
from mindformers_codellama.text.check import tokenizer_fits_model
from mindformers_codellama.text.tokenizer import LlamaTokenizer

OUTPUT_KEY = "text_generation_text"


class TextGenerationPipeline:
    """`pipeline("text_generation", ...)`: called with prompts, it gives one dictionary per prompt.

    Args:
        model: the model with its weights.
        tokenizer: of the model; refused when it can give ids the model does not have.
        batch_size: prompts answered at once; the last batch may be smaller.
        options: generation options that hold for every call, in our names or MindFormers'.

    Raises:
        TokenizerError: the vocabularies disagree.
        GenerationError: an unknown option or one out of range.
    """

    def __init__(self, model: CausalLM, tokenizer: LlamaTokenizer, *, batch_size: int = 1, **options: Any) -> None:
        _require_batch_size(batch_size)
        tokenizer_fits_model(tokenizer, model.config.vocab_size, "model.model_config.vocab_size")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.generation = model.generation.updated(**options)

    def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        batch_size: int | None = None,
        streamer: Streamer | None = None,
        on_text: OnText | None = None,
        add_special_tokens: bool = True,
        skip_special_tokens: bool = True,
        **options: Any,
    ) -> list[dict[str, list[str]]]:
        """Answer prompts.

        Args:
            inputs: one text or many.
            batch_size: prompts answered at once, instead of the pipeline's.
            streamer: hears token ids; one prompt at a time.
            on_text: called with (prompt number, new text) while it is made.
            add_special_tokens: put the begin token before each prompt.
            skip_special_tokens: leave special tokens out of the text.
            options: generation options, in our names or MindFormers'.

        Returns:
            `[{"text_generation_text": [prompt and answer]}]`, one entry per prompt, in their order.

        Raises:
            GenerationError: what is given is no text; or as `run`.
        """
        if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
            raise GenerationError("inputs", f"must be one text or a list of texts, got {type(inputs).__name__}.")
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise GenerationError(
                    f"prompt {number}", f"must be text, got {type(text).__name__}.", fix="for token ids use model.generate."
                )
        prompts = [self.tokenizer.encode(text, add_special_tokens) for text in texts]
        if not prompts:
            return []
        config = self.generation.updated(**options)
        result = self.run(prompts, config, batch_size=batch_size, listeners=Listeners(streamer=streamer, on_text=on_text))
        return [{OUTPUT_KEY: [self.whole_text(result, row, skip_special_tokens)]} for row in range(len(texts))]

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        *,
        batch_size: int | None = None,
        listeners: Listeners | None = None,
        after_batch: Callable[[GenerationResult, int], object] | None = None,
        rules: Sequence[AnswerRule] | None = None,
    ) -> GenerationResult:
        """Answer token ids, with texts, reasons and speed.

        On several ranks every one makes the same call. Copies of the model (data axis) take turns at the batches, and
        every rank gets all answers; its listeners hear only those it made.

        Args:
            prompts: at least one row of ids.
            config: every option.
            batch_size: rows at once, instead of the pipeline's.
            listeners: hear what is made; they are told the row's number among all prompts.
            after_batch: called with the answers of each batch and the number of its first prompt.
            rules: what each answer is beside the options, one per prompt.

        Raises:
            GenerationError, TokenizerError: as `generation.loop.generate_rows`.
        """
        size = self.batch_size if batch_size is None else _require_batch_size(batch_size)
        if listeners is not None and listeners.streamer is not None:
            size = 1
        decoder = self.model.decoder(use_past=config.use_past)
        check_prompts(prompts, decoder, config)  # all of them, before the first costs any time
        results: dict[int, GenerationResult] = {}
        starts = range(0, len(prompts), size)
        copies = self.model.ranks.comm.data
        for turn in range(0, len(starts), copies.size):
            # a copy without a batch of its own answers the last one too: it would only wait, and a wait has limits
            first = starts[min(turn + copies.index, len(starts) - 1)]
            theirs = None if rules is None else rules[first : first + size]
            answer = partial(generate_rows, decoder, prompts[first : first + size], config, first_row=first, rules=theirs)
            found = self._together(first, partial(answer, tokenizer=self.tokenizer, listeners=listeners))
            results |= found
            if after_batch is not None:
                for number in sorted(found):
                    after_batch(found[number], number)
            if any("cancelled" in result.finish_reasons for result in found.values()):
                break
        warn_of_cuts([len(prompt) for prompt in prompts], decoder, config)
        return joined([results[first] for first in sorted(results)])

    def _together(self, first: int, answer: Callable[[], GenerationResult]) -> dict[int, GenerationResult]:
        """The answers every copy of the model made in one turn, by the number of their first prompt."""
        ranks = self.model.ranks
        several = ranks.comm.data.size > 1
        result = together(ranks.agreement, answer, doing="generating", slow=several and ranks.comm.model.size == 1)
        return dict(gather(ranks.agreement, (first, result), doing="gathering answers")) if several else {first: result}

    def whole_text(self, result: GenerationResult, row: int, skip_special_tokens: bool = True) -> str:
        """Prompt and answer as text; an answer cut at a stop string ends exactly before it."""
        if skip_special_tokens and result.texts is not None:
            prompt = result.ids[row][: result.prompt_lengths[row]]
            return str(self.tokenizer.decode(prompt, skip_special_tokens=True)) + result.texts[row]
        return str(self.tokenizer.decode(result.ids[row], skip_special_tokens=skip_special_tokens))


def _require_batch_size(size: int) -> int:
    if size < 1:
        raise GenerationError("batch_size", f"got {size}, must be at least 1.")
    return size
