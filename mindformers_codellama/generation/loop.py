"""Prompts to answers: one batch, every row with its own length, end and random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.beam import search_beams
from mindformers_codellama.generation.prompts import TokenRows, check_prompts, right_pad, warn_of_cuts
from mindformers_codellama.generation.protocol import Bools, Decoder, Floats, Int32, OnText, Streamer
from mindformers_codellama.generation.result import Clock, GenerationResult
from mindformers_codellama.generation.sampling import check_logits, pick, process, row_generator, seen_tokens
from mindformers_codellama.generation.stopping import PLAIN, AnswerRule, RowText
from mindformers_codellama.text.healing import Beginning, piece_index
from mindformers_codellama.text.tokenizer import LlamaTokenizer


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who hears of tokens while they are made."""

    streamer: Streamer | None = None
    """Hears ids."""
    on_text: OnText | None = None
    """Hears (row, text); never a part of a stop string."""
    should_stop: Callable[[], bool] | None = None
    """Asked before every token; True ends all rows with reason `cancelled`."""


@dataclass
class Row:
    """One answer in the making."""

    number: int
    """In the whole request."""
    prompt: list[int]
    limit: int
    """Largest length of prompt plus answer."""
    generator: np.random.Generator
    text: RowText | None
    beginning: Beginning | None = None
    """What the answer has to begin with; None when it is free."""
    new: list[int] = field(default_factory=list)
    reason: str | None = None
    """Why it ended; None while it goes on."""
    streamed: int = 0
    """New tokens the streamer has had."""

    def accept(self, token: int, eos_token_ids: Sequence[int]) -> str:
        """Append a token; give the text that became certain."""
        self.new.append(token)
        if self.beginning is not None and not self.beginning.done:
            self.beginning.take(token)
        piece = ""
        if token in eos_token_ids:
            self.reason = "eos"
        elif self.text is not None:
            piece = self.text.put(token)
            if self.text.stopped:
                self.reason = "stop"
                return piece
        if self.reason is None and len(self.prompt) + len(self.new) >= self.limit:
            self.reason = "length"
        return piece

    def finish(self) -> str:
        """Close the text; give what was held back. A stop string is cut off the tokens too."""
        if self.text is None:
            return ""
        piece = self.text.end()
        if self.text.stopped:
            # Found now when its last character was held back until the end, as half characters are.
            self.reason = "stop"
            self.new = self.new[: self.text.kept_tokens()]
        return piece

    def unstreamed(self) -> list[int]:
        """New tokens the streamer may have now."""
        certain = len(self.new) if self.text is None or self.reason is not None else self.text.certain_tokens()
        fresh = self.new[self.streamed : certain]
        self.streamed = max(self.streamed, certain)
        return fresh


def generate(
    decoder: Decoder,
    prompts: TokenRows,
    config: GenerationConfig,
    *,
    streamer: Streamer | None = None,
    tokenizer: LlamaTokenizer | None = None,
) -> list[Int32]:
    """Answer prompts; see `generate_rows`, which also gives texts and speed.

    Returns:
        One int32 array per prompt: prompt and new tokens, the end token included.
    """
    result = generate_rows(decoder, prompts, config, tokenizer=tokenizer, listeners=Listeners(streamer=streamer))
    warn_of_cuts(result.prompt_lengths, decoder, config)
    return result.ids


def generate_rows(
    decoder: Decoder,
    prompts: TokenRows,
    config: GenerationConfig,
    *,
    tokenizer: LlamaTokenizer | None = None,
    listeners: Listeners | None = None,
    first_row: int = 0,
    rules: Sequence[AnswerRule] | None = None,
) -> GenerationResult:
    """Answer prompts of any lengths in one batch.

    Args:
        decoder: the model.
        prompts: token ids of each row, unpadded; an empty one becomes the begin token.
        config: options; `seed` None is 0.
        tokenizer: gives texts; needed for `stop_strings` and `on_text`.
        listeners: hear tokens and text while they are made.
        first_row: number of the first row in the whole request, so that batches of one request draw
            different numbers, the same as in one large batch.
        rules: what each answer is beside the options, one per prompt; needs a tokenizer and no beam search.

    Returns:
        Answers in the order of the prompts.

    Raises:
        TokenizerError: a token id the model does not have.
        GenerationError: a prompt too long, logits that are not numbers, options that exclude each other.
    """
    listeners = listeners or Listeners()
    _check_options(config, tokenizer, listeners)
    rules = _checked_rules(rules, prompts, config, tokenizer)
    clock = Clock()
    ids, limits = check_prompts(prompts, decoder, config, first_row=first_row)
    if not ids:
        return GenerationResult(ids=[], prompt_lengths=[], texts=None, finish_reasons=[], stats=clock.stats([], []))
    if config.num_beams > 1:
        stop = listeners.should_stop
        return search_beams(decoder, ids, limits, config, tokenizer=tokenizer, should_stop=stop, clock=clock, first_row=first_row)
    seed = config.seed or 0
    rows = [
        Row(
            number,
            prompt,
            limit,
            row_generator(seed, number),
            None if tokenizer is None else RowText.after(tokenizer, prompt, config.stop_strings, rule),
            None if tokenizer is None or not rule.begins else Beginning(piece_index(tokenizer), rule.begins),
        )
        for number, (prompt, limit, rule) in enumerate(zip(ids, limits, rules, strict=True), first_row)
    ]
    _run(decoder, rows, config, listeners, clock)
    return GenerationResult(
        ids=[np.asarray(row.prompt + row.new, dtype=np.int32) for row in rows],
        prompt_lengths=[len(row.prompt) for row in rows],
        texts=None if tokenizer is None else [row.text.text for row in rows if row.text is not None],
        finish_reasons=[str(row.reason) for row in rows],
        stats=clock.stats([len(row.prompt) for row in rows], [len(row.new) for row in rows]),
    )


def _check_options(config: GenerationConfig, tokenizer: LlamaTokenizer | None, listeners: Listeners) -> None:
    if tokenizer is None and (config.stop_strings or listeners.on_text is not None):
        raise GenerationError("stop_strings", "text can only be watched with a tokenizer.", fix="pass tokenizer=...")
    if config.num_beams > 1 and (listeners.streamer is not None or listeners.on_text is not None):
        raise GenerationError("streamer", "beam search knows its answer only at the end.", fix="use num_beams 1 to stream.")
    if config.num_beams > 1 and config.stop_strings:
        raise GenerationError("stop_strings", "beam search ends at end tokens only.", fix="use num_beams 1, or eos_token_ids.")


def _checked_rules(
    rules: Sequence[AnswerRule] | None, prompts: TokenRows, config: GenerationConfig, tokenizer: LlamaTokenizer | None
) -> Sequence[AnswerRule]:
    if rules is None:
        return [PLAIN] * len(prompts)
    assert tokenizer is not None
    assert len(rules) == len(prompts)
    if config.num_beams > 1:
        raise GenerationError("num_beams", "beam search takes no rules of single answers.", fix="use num_beams 1.")
    return rules


def _run(decoder: Decoder, rows: list[Row], config: GenerationConfig, listeners: Listeners, clock: Clock) -> None:
    """Fill every row's `new` and `reason`."""
    prompts = [row.prompt for row in rows]
    prompt_BV = seen_tokens(prompts, decoder.vocab_size) if config.encoder_repetition_penalty != 1 else None
    seen_BV = seen_tokens(prompts, decoder.vocab_size) if config.repetition_penalty != 1 else None
    _stream(rows, listeners, prompts)
    logits_BV = decoder.prefill(*right_pad(prompts, config.pad_token_id))
    while True:
        if listeners.should_stop is not None and listeners.should_stop():
            _cancel(rows, listeners)
        else:
            tokens_B = _next_tokens(logits_BV, rows, config, seen_BV=seen_BV, prompt_BV=prompt_BV)
            clock.mark_token()
            _take(rows, tokens_B, config, listeners)
        if all(row.reason is not None for row in rows):
            break
        logits_BV = decoder.step(tokens_B)
    if listeners.streamer is not None:
        listeners.streamer.end()


def _cancel(rows: list[Row], listeners: Listeners) -> None:
    """End the live rows where they are, giving out what was held back."""
    for row in rows:
        if row.reason is None:
            row.reason = "cancelled"
            piece = row.finish()
            if piece and listeners.on_text is not None:
                listeners.on_text(row.number, piece)
    _stream(rows, listeners, [row.unstreamed() for row in rows])


def _next_tokens(logits_BV: Floats, rows: list[Row], config: GenerationConfig, *, seen_BV: Bools | None, prompt_BV: Bools | None) -> Int32:
    """One token for every row, padding for those that have ended; marks it in `seen_BV`."""
    live = [place for place, row in enumerate(rows) if row.reason is None]
    logits_LV = np.asarray(logits_BV)[live]
    check_logits(logits_LV, [rows[place].number for place in live], max(len(rows[place].new) for place in live))
    logits_LV = process(
        _confined(logits_LV, [rows[place] for place in live]),
        config,
        seen_BV=None if seen_BV is None else seen_BV[live],
        prompt_BV=None if prompt_BV is None else prompt_BV[live],
    )
    tokens_B = np.full(len(rows), config.pad_token_id, dtype=np.int32)
    tokens_B[live] = pick(logits_LV, config, [rows[place].generator for place in live])
    if seen_BV is not None:
        seen_BV[live, tokens_B[live]] = True
    return tokens_B


def _confined(logits_LV: Floats, rows: list[Row]) -> Floats:
    """Logits with -inf for tokens that do not keep to the text a row's answer must begin with."""
    for logits_V, row in zip(logits_LV, rows, strict=True):
        if row.beginning is not None and not row.beginning.done:
            kept = row.beginning.allowed()
            values = logits_V[kept]
            logits_V[:] = -np.inf
            logits_V[kept] = values
    return logits_LV


def _take(rows: list[Row], tokens_B: Int32, config: GenerationConfig, listeners: Listeners) -> None:
    """Give each live row its token, and the listeners what became certain."""
    for row, token in zip(rows, tokens_B, strict=True):
        if row.reason is None:
            piece = row.accept(int(token), config.eos_token_ids)
            if row.reason is not None:
                piece += row.finish()
            if piece and listeners.on_text is not None:
                listeners.on_text(row.number, piece)
    _stream(rows, listeners, [row.unstreamed() for row in rows])


def _stream(rows: list[Row], listeners: Listeners, fresh: list[list[int]]) -> None:
    if listeners.streamer is None or not any(fresh):
        return
    listeners.streamer.put(np.asarray(fresh[0], dtype=np.int32) if len(rows) == 1 else fresh)
