"""Small deterministic decoders in numpy, and a tokenizer whose every id is one or more characters."""

import numpy as np


class RecurrentDecoder:
    """A recurrent network whose logits depend on every token read, and on nothing else.

    Padding read by mistake, a wrong length, or a wrong reorder changes its logits.
    """

    def __init__(self, vocab_size: int = 11, max_length: int = 64, seed: int = 0, scale: float = 3.0):
        rng = np.random.default_rng(seed)
        self.vocab_size, self.max_length = vocab_size, max_length
        self.embed_VH = rng.normal(size=(vocab_size, 8))
        self.mix_HH = rng.normal(size=(8, 8)) * 0.5
        self.head_HV = rng.normal(size=(8, vocab_size)) * scale
        self.state_BH = np.zeros((0, 8))
        self.batches = []
        """Rows of each prefill, for tests that count."""

    def _read(self, state_BH, tokens_B):
        return np.tanh(state_BH @ self.mix_HH + self.embed_VH[tokens_B])

    def prefill(self, tokens_BT, lengths_B):
        assert tokens_BT.dtype == np.int32
        assert lengths_B.dtype == np.int32
        self.batches.append(len(tokens_BT))
        self.state_BH = np.zeros((len(tokens_BT), 8))
        for place in range(tokens_BT.shape[1]):
            read_BH = self._read(self.state_BH, tokens_BT[:, place])
            self.state_BH = np.where((place < lengths_B)[:, None], read_BH, self.state_BH)
        return self.state_BH @ self.head_HV

    def step(self, tokens_B):
        assert tokens_B.dtype == np.int32
        assert tokens_B.shape == (len(self.state_BH),)
        self.state_BH = self._read(self.state_BH, tokens_B)
        return self.state_BH @ self.head_HV

    def reorder(self, rows_B):
        self.state_BH = self.state_BH[rows_B]

    def log_probs_after(self, ids):
        """Log-probabilities of the next token, without the state of the decoder."""
        state_1H = np.zeros((1, 8))
        for token in ids:
            state_1H = self._read(state_1H, np.asarray([token]))
        logits_V = (state_1H @ self.head_HV)[0]
        return logits_V - np.log(np.exp(logits_V).sum())


class BigramDecoder:
    """Logits are a table row of the last token alone."""

    def __init__(self, logits_VV, max_length: int = 64):
        self.logits_VV = np.asarray(logits_VV, dtype=np.float32)
        self.vocab_size, self.max_length = len(self.logits_VV), max_length

    def prefill(self, tokens_BT, lengths_B):
        return self.logits_VV[tokens_BT[np.arange(len(tokens_BT)), lengths_B - 1]]

    def step(self, tokens_B):
        return self.logits_VV[tokens_B]

    def reorder(self, rows_B):
        pass


def script(vocab_size: int, follows: dict[int, int]) -> BigramDecoder:
    """A decoder that goes from each token to the one that follows it."""
    logits_VV = np.zeros((vocab_size, vocab_size))
    for before, after in follows.items():
        logits_VV[before, after] = 50.0
    return BigramDecoder(logits_VV)


class ScriptedDecoder:
    """Row b answers with `answers[b]`, whatever it reads; then with `after` for ever."""

    def __init__(self, vocab_size: int, answers: list[list[int]], after: int = 2, max_length: int = 512):
        self.vocab_size, self.max_length, self.answers, self.after = vocab_size, max_length, answers, after

    def _logits(self):
        logits_BV = np.zeros((self.rows, self.vocab_size), dtype=np.float32)
        for row in range(self.rows):
            answer = self.answers[row]
            logits_BV[row, answer[self.place] if self.place < len(answer) else self.after] = 9.0
        return logits_BV

    def prefill(self, tokens_BT, lengths_B):
        self.rows, self.place = len(tokens_BT), 0
        return self._logits()

    def step(self, tokens_B):
        self.place += 1
        return self._logits()

    def reorder(self, rows_B):
        pass
