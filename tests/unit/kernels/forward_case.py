"""A random Llama for the network kernel: its inputs in any form, and what it must give, by numpy in float64."""

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from mindformers_codellama.kernels.library import call
from mindformers_codellama.quantization.quantize import pack_weights, unpack_weights

PAGE = 16
FORMS = ("float32", "bfloat16", "int8", "int4")


@dataclass
class Toy:
    """A random model; `weights` are float64 and exactly what the packed ones mean."""

    form: str = "float32"
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    inner: int = 80
    vocabulary: int = 67
    positions: int = 64
    group: int = 64
    biases: bool = False
    separate: bool = False
    pool_form: str = ""
    seed: int = 0
    weights: dict = field(default_factory=dict)
    inputs: list = field(default_factory=list)

    def __post_init__(self):
        self.random = np.random.default_rng(self.seed)
        self.pool_form = self.pool_form or ("float32" if self.form == "float32" else "bfloat16")
        width, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        parts = {
            "qkv": [("wq", width), ("wk", kv), ("wv", kv)], "o": [("wo", self.hidden)],
            "gate_up": [("w1", self.inner), ("w3", self.inner)], "down": [("w2", self.hidden)],
        }  # fmt: skip
        columns = {"qkv": self.hidden, "o": width, "gate_up": self.hidden, "down": self.inner}
        stacks = {
            role: [self.matrix(f"{layer}.{name}", rows, columns[role]) for layer in range(self.layers) for name, rows in part]
            for role, part in parts.items()
        }
        stacks["head"] = [self.matrix("head", self.vocabulary, self.hidden)]
        norms = (1 + self.random.standard_normal((2 * self.layers + 1, self.hidden)) / 4).astype(np.float32)
        embedding = self.random.standard_normal((self.vocabulary, self.hidden)).astype(np.float32)
        bias = (self.random.standard_normal((self.layers, width + 2 * kv)) * self.biases).astype(np.float32)
        self.weights |= {"norms": norms.astype(np.float64), "embedding": embedding.astype(np.float64), "bias": bias.astype(np.float64)}
        angles = np.outer(np.arange(self.positions), 100.0 ** (-2 * np.arange(self.head_dim // 2) / self.head_dim))
        self.angles = angles
        cosines = np.concatenate([np.cos(angles), np.cos(angles)], -1).astype(np.float32)
        sines = np.concatenate([-np.sin(angles), np.sin(angles)], -1).astype(np.float32)
        sizes = [self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim, self.inner, self.vocabulary]
        sizes += [FORMS.index(self.form), self.group, PAGE, int(self.separate), int(self.biases)]
        reals = np.array([1e-5, self.head_dim**-0.5], np.float32)
        self.inputs += [np.array(sizes, np.int64), reals, cosines, sines, embedding]
        if self.separate:
            self.inputs += self.separate_inputs(stacks, norms, bias, width, kv)
            return
        self.inputs += [norms, *(np.concatenate([m.values.ravel() for m in stack]) for stack in stacks.values())]
        if self.form in ("int8", "int4"):
            self.inputs += [np.concatenate([m.scales.ravel() for m in stack]) for stack in stacks.values()]
        self.inputs += [bias] * self.biases

    def matrix(self, name, rows, columns):
        original = (self.random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        packed = pack_weights(original, self.form, self.group if self.form in ("int8", "int4") else 0)
        self.weights[name] = unpack_weights(packed).astype(np.float64)
        return packed

    def separate_inputs(self, stacks, norms, bias, width, kv):
        inputs = []
        for layer in range(self.layers):
            q, k, v = (m.values for m in stacks["qkv"][3 * layer : 3 * layer + 3])
            gate, up = (m.values for m in stacks["gate_up"][2 * layer : 2 * layer + 2])
            inputs += [norms[2 * layer], norms[2 * layer + 1], q, k, v, stacks["o"][layer].values, gate, up, stacks["down"][layer].values]
            if self.biases:
                inputs += [np.ascontiguousarray(piece) for piece in np.split(bias[layer], [width, width + kv])]
        return [*inputs, norms[-1], stacks["head"][0].values]

    def pools(self, pages):
        size = PAGE * (-(-self.head_dim // 16) * 16)
        dtype = np.float32 if self.pool_form == "float32" else ml_dtypes.bfloat16
        # what was never written must not matter
        return [np.full((pages, self.layers, self.kv_heads, size), np.nan, dtype) for _ in range(2)]

    def reference(self, ids):
        """(S, V) of one row."""
        w, x = self.weights, self.weights["embedding"][ids]
        width, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        turn = np.exp(1j * self.angles[: len(ids)])
        hidden = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        for layer in range(self.layers):
            h = norm(x, w["norms"][2 * layer])
            q_bias, k_bias, v_bias = np.split(w["bias"][layer], [width, width + kv])
            q, k, v = h @ w[f"{layer}.wq"].T + q_bias, h @ w[f"{layer}.wk"].T + k_bias, h @ w[f"{layer}.wv"].T + v_bias
            heads = []
            for head in range(self.heads):
                place = slice(head * self.head_dim, (head + 1) * self.head_dim)
                shared = head * self.kv_heads // self.heads
                kv_place = slice(shared * self.head_dim, (shared + 1) * self.head_dim)
                scores = rotate(q[:, place], turn) @ rotate(k[:, kv_place], turn).T * self.head_dim**-0.5 + hidden
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, kv_place])
            x = x + np.concatenate(heads, -1) @ w[f"{layer}.wo"].T
            h = norm(x, w["norms"][2 * layer + 1])
            gate = h @ w[f"{layer}.w1"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"{layer}.w3"].T)) @ w[f"{layer}.w2"].T
        return norm(x, w["norms"][-1]) @ w["head"].T


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def rotate(x, turn):
    half = x.shape[-1] // 2
    z = (x[:, :half] + 1j * x[:, half:]) * turn
    return np.concatenate([z.real, z.imag], -1)


def forward(toy, pools, table, pieces, wanted=None):
    """Read pieces (row, first position, ids); logits of the wanted tokens, all when None."""
    ids = np.concatenate([piece[2] for piece in pieces])
    positions = np.concatenate([np.arange(start, start + len(new)) for _, start, new in pieces])
    rows = np.concatenate([np.full(len(new), row) for row, _, new in pieces])
    wanted = np.arange(len(ids)) if wanted is None else np.asarray(wanted)
    logits = np.full((len(wanted), toy.vocabulary), np.nan, np.float32)
    tokens = np.stack([ids, positions, rows]).astype(np.int32)
    call("LlamaForward", [tokens, wanted.astype(np.int32), np.asarray(table, np.int32), *pools, *toy.inputs], [logits])
    return logits
