"""Beam search with a length penalty, as transformers defines it (its default `early_stopping=False`).

Every prompt has `num_beams` rows in the decoder. At each step the best `(1 + number of end tokens) * num_beams`
continuations of a prompt are looked at, so that enough unfinished ones remain; those among the first `num_beams`
that end are kept as answers with score log-probability / new tokens ** length_penalty. A prompt is done when its
best running beam, scored at its present length, does not beat the worst of its `num_beams` answers.
Source: transformers generation/utils.py, `_beam_search`. Unlike there, prompts of unequal length keep their own
limits, and repetition penalties see the prompt without padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.generation.prompts import right_pad
from mindformers_codellama.generation.protocol import Decoder, Floats, Int32
from mindformers_codellama.generation.result import Clock, GenerationResult
from mindformers_codellama.generation.sampling import check_logits, log_softmax, process, seen_tokens
from mindformers_codellama.generation.stopping import RowText
from mindformers_codellama.text.tokenizer import LlamaTokenizer


@dataclass(frozen=True)
class Answer:
    """A finished continuation."""

    score: float
    tokens: list[int]
    reason: str


@dataclass
class Search:
    """The beams of one prompt."""

    number: int
    """Of the prompt in the whole request."""
    prompt: list[int]
    limit: int
    width: int
    """Beams kept."""
    beams: list[list[int]] = field(default_factory=list)
    """New tokens of each running beam, best first."""
    scores: list[float] = field(default_factory=list)
    """Log-probability of each running beam; -inf for one that does not run."""
    answers: list[Answer] = field(default_factory=list)
    """Best first, at most `width`."""
    parents: list[int] = field(default_factory=list)
    """Which beam of the last step each beam continues."""
    done: bool = False

    def __post_init__(self) -> None:
        # One beam runs at first: equal beams would all choose the same continuation.
        self.beams = [[] for _ in range(self.width)]
        self.scores = [0.0] + [-np.inf] * (self.width - 1)
        self.parents = list(range(self.width))

    def advance(self, log_probs_NV: Floats, config: GenerationConfig) -> None:
        """Extend the beams by one token.

        Args:
            log_probs_NV: float `(width, V)`, log-probabilities after each beam.
            config: end tokens and length penalty.
        """
        vocab_size = log_probs_NV.shape[1]
        total = (log_probs_NV + np.asarray(self.scores)[:, None]).reshape(-1)
        ends = set(config.eos_token_ids)
        keep = min(max(2, 1 + len(ends)) * self.width, total.size)
        best = np.argsort(-total, kind="stable")[:keep]
        length = len(self.beams[0]) + 1
        at_limit = len(self.prompt) + length >= self.limit
        beams: list[tuple[int, float, list[int]]] = []
        for rank, place in enumerate(best):
            score, beam, token = float(total[place]), int(place) // vocab_size, int(place) % vocab_size
            if score == -np.inf:
                break
            tokens = [*self.beams[beam], token]
            if token in ends or at_limit:
                if rank < self.width:
                    self.answers.append(Answer(score / length**config.length_penalty, tokens, "eos" if token in ends else "length"))
            else:
                beams.append((beam, score, tokens))
        # Stable: of equal answers the earlier stays ahead.
        self.answers = sorted(self.answers, key=lambda answer: -answer.score)[: self.width]
        self._continue(beams[: self.width])
        running = max(self.scores) / length**config.length_penalty
        full = len(self.answers) == self.width
        self.done = at_limit or not beams or (full and running <= self.answers[-1].score)

    def _continue(self, beams: list[tuple[int, float, list[int]]]) -> None:
        spare = self.width - len(beams)
        self.parents = [beam for beam, _, _ in beams] + [0] * spare
        self.scores = [score for _, score, _ in beams] + [-np.inf] * spare
        length = len(self.beams[0]) + 1
        self.beams = [tokens for _, _, tokens in beams] + [[0] * length for _ in range(spare)]

    def best(self, config: GenerationConfig) -> Answer:
        """The best answer; a running beam when the search was cancelled before any ended."""
        if self.answers:
            return self.answers[0]
        tokens = self.beams[0]
        return Answer(self.scores[0] / max(1, len(tokens)) ** config.length_penalty, tokens, "cancelled")


def search_beams(
    decoder: Decoder,
    prompts: list[list[int]],
    limits: list[int],
    config: GenerationConfig,
    *,
    tokenizer: LlamaTokenizer | None,
    should_stop: Callable[[], bool] | None,
    clock: Clock,
    first_row: int = 0,
) -> GenerationResult:
    """The most likely answer found for each prompt.

    Args:
        decoder: the model; it is given `len(prompts) * num_beams` rows.
        prompts: checked, not empty.
        limits: largest length of prompt plus answer of each.
        config: `num_beams` above 1.
        tokenizer: gives texts.
        should_stop: asked before every token.
        clock: started by the caller.
        first_row: number of the first prompt in the whole request, for messages.

    Returns:
        One answer per prompt, with `scores`.
    """
    width = config.num_beams
    searches = [Search(number, prompt, limit, width) for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True), first_row)]
    logits_RV = decoder.prefill(*right_pad([prompt for prompt in prompts for _ in range(width)], config.pad_token_id))
    while not (should_stop is not None and should_stop()):
        _advance(searches, np.asarray(logits_RV), config)
        clock.mark_token()
        if all(search.done for search in searches):
            break
        decoder.reorder(_parents(searches))
        logits_RV = decoder.step(_last_tokens(searches, config.pad_token_id))
    answers = [search.best(config) for search in searches]
    return GenerationResult(
        ids=[np.asarray(prompt + answer.tokens, dtype=np.int32) for prompt, answer in zip(prompts, answers, strict=True)],
        prompt_lengths=[len(prompt) for prompt in prompts],
        texts=None if tokenizer is None else [_text(tokenizer, p, a.tokens, config) for p, a in zip(prompts, answers, strict=True)],
        finish_reasons=[answer.reason for answer in answers],
        stats=clock.stats([len(prompt) for prompt in prompts], [len(answer.tokens) for answer in answers]),
        scores=[answer.score for answer in answers],
    )


def _advance(searches: list[Search], logits_RV: Floats, config: GenerationConfig) -> None:
    width = config.num_beams
    for number, search in enumerate(searches):
        if search.done:
            continue
        logits_NV = logits_RV[number * width : (number + 1) * width]
        running = [beam for beam in range(width) if search.scores[beam] > -np.inf]
        check_logits(logits_NV[running], [search.number] * len(running), len(search.beams[0]))
        log_probs_NV = np.full(logits_NV.shape, -np.inf)
        seen_NV = prompt_NV = None
        if config.repetition_penalty != 1:
            seen_NV = seen_tokens([search.prompt + search.beams[beam] for beam in running], logits_NV.shape[1])
        if config.encoder_repetition_penalty != 1:
            prompt_NV = seen_tokens([search.prompt] * len(running), logits_NV.shape[1])
        log_probs_NV[running] = process(log_softmax(logits_NV[running]), config, seen_BV=seen_NV, prompt_BV=prompt_NV)
        search.advance(log_probs_NV, config)


def _parents(searches: list[Search]) -> Int32:
    """Row numbers in the decoder that the rows continue."""
    return np.asarray([n * search.width + parent for n, search in enumerate(searches) for parent in search.parents], dtype=np.int32)


def _last_tokens(searches: list[Search], pad_token_id: int) -> Int32:
    return np.asarray([pad_token_id if search.done else beam[-1] for search in searches for beam in search.beams], dtype=np.int32)


def _text(tokenizer: LlamaTokenizer, prompt: list[int], tokens: list[int], config: GenerationConfig) -> str:
    text = RowText.after(tokenizer, prompt, ())
    for token in tokens:
        if token not in config.eos_token_ids:
            text.put(token)
    text.end()
    return text.text
