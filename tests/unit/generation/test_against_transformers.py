"""Oracle: transformers' own logits processors, greedy loop and beam search over a tiny torch Llama."""

import numpy as np
import pytest

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.generation import sampling
from mindformers_codellama.generation.beam import Search
from mindformers_codellama.generation.loop import generate, generate_rows

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB = 24


class TorchDecoder:
    """A Decoder over a torch model that reads every row anew each time."""

    def __init__(self, model, max_length: int = 64):
        self.model, self.vocab_size, self.max_length = model, VOCAB, max_length

    def _logits(self):
        with torch.no_grad():
            return np.stack([self.model(torch.tensor([row])).logits[0, -1].numpy() for row in self.rows])

    def prefill(self, tokens_BT, lengths_B):
        self.rows = [row[:length].tolist() for row, length in zip(tokens_BT, lengths_B, strict=True)]
        return self._logits()

    def step(self, tokens_B):
        for row, token in zip(self.rows, tokens_B.tolist(), strict=True):
            row.append(token)
        return self._logits()

    def reorder(self, rows_B):
        self.rows = [list(self.rows[row]) for row in rows_B]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=VOCAB, **sizes, max_position_embeddings=64, initializer_range=0.6)
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def logits():
    return np.random.default_rng(4).normal(size=(3, 50)).astype(np.float32) * 3


def warped_by_transformers(logits, seen, *, temperature, top_k, top_p, penalty):
    processors = [transformers.RepetitionPenaltyLogitsProcessor(penalty), transformers.TemperatureLogitsWarper(temperature)]
    if top_k:
        processors.append(transformers.TopKLogitsWarper(top_k))
    processors.append(transformers.TopPLogitsWarper(top_p))
    return transformers.LogitsProcessorList(processors)(torch.tensor(seen), torch.tensor(logits)).numpy()


@pytest.mark.parametrize("top_k", [0, 1, 9])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize(("temperature", "penalty"), [(1.0, 1.0), (0.7, 1.4), (2.5, 0.8)])
def test_the_warped_distribution_is_that_of_transformers(logits, top_k, top_p, temperature, penalty):
    seen = np.random.default_rng(5).integers(0, 50, (3, 8))
    theirs = warped_by_transformers(logits, seen, temperature=temperature, top_k=top_k, top_p=top_p, penalty=penalty)
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    ours = sampling.warp(sampling.process(logits, config, seen_BV=sampling.seen_tokens(seen.tolist(), 50), prompt_BV=None), config)
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))
    # Theirs is float32; logits up to 10 have a last place of 1e-6.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_comparison_of_distributions_can_fail(logits):
    seen = np.zeros((3, 1), dtype=np.int64)
    theirs = warped_by_transformers(logits, seen, temperature=1.0, top_k=0, top_p=0.5, penalty=1.0)
    dropping_the_crossing_token = sampling.keep_top_p(logits, 0.5 - sampling.softmax(logits).max())
    assert (np.isfinite(dropping_the_crossing_token) != np.isfinite(theirs)).any()


def test_encoder_repetition_penalty_is_that_of_transformers(logits):
    prompt = np.random.default_rng(6).integers(0, 50, (3, 8))
    processor = transformers.EncoderRepetitionPenaltyLogitsProcessor(1.7, torch.tensor(prompt))
    theirs = processor(torch.tensor(prompt), torch.tensor(logits)).numpy()
    config = GenerationConfig(encoder_repetition_penalty=1.7)
    ours = sampling.process(logits, config, seen_BV=None, prompt_BV=sampling.seen_tokens(prompt.tolist(), 50))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def of_transformers(model, prompt, **options):
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    return out.sequences[0].tolist(), float(out.sequences_scores[0]) if "num_beams" in options else None


def trimmed(ids, prompt, ends):
    """Transformers pads a finished beam; cut after the first end token."""
    for place in range(len(prompt), len(ids)):
        if ids[place] in ends:
            return ids[: place + 1]
    return ids


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_gives_the_tokens_of_transformers(model, penalty):
    prompt = [1, 5, 9]
    theirs, _ = of_transformers(model, prompt, do_sample=False, max_new_tokens=12, eos_token_id=2, repetition_penalty=penalty)
    ours = generate(TorchDecoder(model), [prompt], GenerationConfig(max_new_tokens=12, repetition_penalty=penalty))[0].tolist()
    assert ours == theirs


PROMPTS = ([1, 5, 9], [3], [8, 8, 20, 4, 17])


@pytest.mark.parametrize(("width", "length_penalty"), [(2, 1.0), (4, 0.0), (4, 2.0), (3, -1.0)])
@pytest.mark.parametrize("ends", [(2,), (2, 7, 11, 13)])
def test_beam_search_gives_the_tokens_and_scores_of_transformers(model, width, length_penalty, ends):
    config = GenerationConfig(max_new_tokens=8, num_beams=width, length_penalty=length_penalty, eos_token_ids=ends)
    for prompt in PROMPTS:
        options = {"num_beams": width, "length_penalty": length_penalty, "eos_token_id": list(ends), "max_new_tokens": 8}
        theirs, score = of_transformers(model, prompt, do_sample=False, **options)
        result = generate_rows(TorchDecoder(model), [prompt], config)
        assert result.ids[0].tolist() == trimmed(theirs, prompt, ends)
        assert result.scores is not None
        # Sums of 8 float32 log-probabilities against float64.
        assert result.scores[0] == pytest.approx(score, rel=1e-5)


def test_beam_search_with_repetition_penalty_gives_the_tokens_of_transformers(model):
    config = GenerationConfig(max_new_tokens=8, num_beams=3, repetition_penalty=1.3)
    for prompt in PROMPTS:
        theirs, _ = of_transformers(model, prompt, do_sample=False, num_beams=3, max_new_tokens=8, eos_token_id=2, repetition_penalty=1.3)
        assert generate(TorchDecoder(model), [prompt], config)[0].tolist() == trimmed(theirs, prompt, (2,))


def test_the_comparison_of_beams_can_fail(model, monkeypatch):
    """Answers scored without their length are other answers for some prompt."""
    config = GenerationConfig(max_new_tokens=8, num_beams=4, length_penalty=2.0, eos_token_ids=(2, 7, 11, 13))
    right = [generate(TorchDecoder(model), [prompt], config)[0].tolist() for prompt in PROMPTS]
    whole = Search.advance

    def careless(self, log_probs_NV, config):
        import dataclasses

        whole(self, log_probs_NV, dataclasses.replace(config, length_penalty=0.0))

    monkeypatch.setattr(Search, "advance", careless)
    assert [generate(TorchDecoder(model), [prompt], config)[0].tolist() for prompt in PROMPTS] != right
