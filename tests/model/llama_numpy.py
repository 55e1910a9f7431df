"""Llama in numpy float64, one row and one head at a time: slow, and written independently of the package.

Only the weights' names are shared. `grouping` and friends allow the mistakes the tests must notice.
"""

import numpy as np


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rotate_head(x, positions, theta):
    """(S, H): pair i is (x[i], x[i + H/2]), turned as complex numbers."""
    half = x.shape[-1] // 2
    angles = np.asarray(positions, np.float64)[:, None] * theta ** (-2.0 * np.arange(half) / x.shape[-1])
    z = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], -1)


def attention(x, weights, prefix, config, positions, visible):
    """(S, D) of one row; `visible` (S, S) bool."""
    size, group = config.head_dim, config.num_heads // config.num_kv_heads
    q, k, v = (x @ weights[f"{prefix}.{name}.weight"].T for name in ("wq", "wk", "wv"))
    mixed = []
    for head in range(config.num_heads):
        kv = head // group
        q_head = rotate_head(q[:, head * size : (head + 1) * size], positions, config.rope_theta)
        k_head = rotate_head(k[:, kv * size : (kv + 1) * size], positions, config.rope_theta)
        scores = np.where(visible, q_head @ k_head.T / np.sqrt(size), -np.inf)
        scores[~visible.any(-1)] = 0.0
        mixed.append(softmax(scores) @ v[:, kv * size : (kv + 1) * size])
    return np.concatenate(mixed, -1) @ weights[f"{prefix}.wo.weight"].T


def feed_forward(x, weights, prefix):
    gate = x @ weights[f"{prefix}.w1.weight"].T
    return (gate / (1 + np.exp(-gate)) * (x @ weights[f"{prefix}.w3.weight"].T)) @ weights[f"{prefix}.w2.weight"].T


def logits_of_row(ids, weights, config, positions=None):
    """(S, V) of one row of ids without padding."""
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    positions = np.arange(len(ids)) if positions is None else positions
    visible = np.tril(np.ones((len(ids), len(ids)), bool))
    x = weights["model.tok_embeddings.embedding_weight"][np.asarray(ids)]
    for layer in range(config.num_layers):
        name = f"model.layers.{layer}"
        h = rms_norm(x, weights[f"{name}.attention_norm.weight"], config.rms_norm_eps)
        x = x + attention(h, weights, f"{name}.attention", config, positions, visible)
        h = rms_norm(x, weights[f"{name}.ffn_norm.weight"], config.rms_norm_eps)
        x = x + feed_forward(h, weights, f"{name}.feed_forward")
    return rms_norm(x, weights["model.norm_out.weight"], config.rms_norm_eps) @ weights["lm_head.weight"].T


def relative_error(found, wanted):
    """Largest difference over the largest value: what the documented bounds are stated in."""
    wanted = np.asarray(wanted, np.float64)
    return float(np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max())
