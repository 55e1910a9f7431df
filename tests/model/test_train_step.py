"""One training step against torch in float64: clip, loss scale, accumulation, overflow, both optimizers.

The model is a bag of two matrices and a bias (embedding, output), small enough that float32 keeps
seven digits: differences after eight steps stay below 1e-5 (losses of 3 are means of 32 rounded terms,
and Adam divides small numbers by small numbers), while a wrong formula shows at 5e-4.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate, decayed
from mindformers_codellama.train.step import TrainStep

torch = pytest.importorskip("torch", reason="the reference is torch: pip install .[test]")

VOCAB, WIDTH, STEPS = 11, 6, 8
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


class Bag(nn.Cell):
    """Mean cross entropy of the next token from the current one alone."""

    def __init__(self, values, dtype=ms.float32):
        super().__init__()
        self.embedding = ms.Parameter(ms.Tensor(values["embedding"], dtype), name="embedding")
        self.out = ms.Parameter(ms.Tensor(values["out"], dtype), name="out")
        self.bias = ms.Parameter(ms.Tensor(values["bias"], dtype), name="out.bias")
        self.boost = ms.Parameter(ms.Tensor(1.0, ms.float32), name="boost", requires_grad=False)

    def construct(self, ids, labels=None, segments=None, positions=None):
        x = ops.cast(self.embedding, ms.float32)[ids[:, :-1].reshape(-1)]
        logits = ops.matmul(x, ops.cast(self.out, ms.float32).T) + ops.cast(self.bias, ms.float32)
        chosen = ids if labels is None else labels
        picked = ops.gather_elements(ops.log_softmax(logits, -1), 1, chosen[:, 1:].reshape(-1, 1))
        return -picked.mean() * self.boost


def start_values():
    rng = np.random.default_rng(3)
    shapes = {"embedding": (VOCAB, WIDTH), "out": (VOCAB, WIDTH), "bias": (VOCAB,)}
    return {name: rng.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}


def make_batches(count):
    rng = np.random.default_rng(4)
    return [{"input_ids": rng.integers(0, VOCAB, (4, 9)).astype(np.int32)} for _ in range(count)]


def torch_run(kind, *, clip=None, decay=0.1, micro=1, eps=1e-4):
    """Losses, norms and final weights of the same steps in torch float64, formulas written out."""
    values = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in start_values().items()}
    moments = {k: [torch.zeros_like(v), torch.zeros_like(v)] for k, v in values.items()}
    library = torch.optim.AdamW(
        [{"params": [values["embedding"], values["out"]], "weight_decay": decay}, {"params": [values["bias"]], "weight_decay": 0.0}],
        lr=0.05, betas=(0.9, 0.95), eps=eps,
    )  # fmt: skip
    losses, norms = [], []
    batches = make_batches(STEPS * micro)
    for step in range(STEPS):
        library.zero_grad()
        total = 0.0
        for batch in batches[step * micro : (step + 1) * micro]:
            ids = torch.tensor(batch["input_ids"], dtype=torch.long)
            logits = values["embedding"][ids[:, :-1]] @ values["out"].T + values["bias"]
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1)) / micro
            loss.backward()
            total += loss.item()
        norm = torch.sqrt(sum((v.grad**2).sum() for v in values.values())).item()
        if clip is not None:
            for v in values.values():
                v.grad *= min(1.0, clip / (max(norm, clip) + 1e-6))
        if kind == "AdamW":
            library.step()
        else:
            with torch.no_grad():
                for name, v in values.items():
                    m, s = moments[name]
                    m.mul_(0.9).add_(v.grad, alpha=0.1)
                    s.mul_(0.95).add_(v.grad**2, alpha=0.05)
                    v -= 0.05 * (m / (s.sqrt() + eps) + (0.0 if name == "bias" else decay) * v)
        losses.append(total)
        norms.append(norm)
    return losses, norms, {k: v.detach().numpy() for k, v in values.items()}


def our_run(kind, *, clip=None, decay=0.1, micro=1, eps=1e-4, scale=1.0, dtype=ms.float32):
    net = Bag(start_values(), dtype)
    update = AdamUpdate(net.trainable_params(), AdamSettings(type=kind, beta1=0.9, beta2=0.95, eps=eps, weight_decay=decay))
    step = TrainStep(net, update, columns=("input_ids",), micro_steps=micro, max_grad_norm=clip)
    batches = make_batches(STEPS * micro)
    results = [
        step(batches[i * micro : (i + 1) * micro], updates=i, learning_rate=0.05, scale=LossScale(value=scale)) for i in range(STEPS)
    ]
    weights = {"embedding": net.embedding, "out": net.out, "bias": net.bias}
    return [r.loss for r in results], [r.grad_norm for r in results], {k: v.asnumpy().astype(np.float64) for k, v in weights.items()}


def worst(ours, theirs):
    pairs = [(ours[0], theirs[0]), (ours[1], theirs[1])] + [(ours[2][k], theirs[2][k]) for k in theirs[2]]
    return max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)


@pytest.mark.parametrize(
    ("kind", "clip", "micro", "scale"),
    [
        ("AdamW", None, 1, 1.0),
        ("FP32StateAdamWeightDecay", 0.3, 1, 1024.0),
        ("AdamW", 0.3, 3, 65536.0),
        ("FP32StateAdamWeightDecay", 0.3, 3, 65536.0),
    ],
)
def test_losses_norms_and_weights_follow_torch_float64(kind, clip, micro, scale):
    assert worst(our_run(kind, clip=clip, micro=micro, scale=scale), torch_run(kind, clip=clip, micro=micro)) < TOLERANCE


@pytest.mark.parametrize("break_it", [{"decay": 0.0}, {"clip": 0.6}, {"kind": "FP32StateAdamWeightDecay"}])
def test_the_comparison_fails_when_decay_clip_or_bias_correction_is_wrong(break_it):
    right = {"kind": "AdamW", "clip": 0.3}
    assert worst(our_run(**right | break_it), torch_run(**right)) > 50 * TOLERANCE


def test_half_precision_weights_keep_float32_moments_and_follow_within_their_rounding():
    ours = our_run("FP32StateAdamWeightDecay", dtype=ms.float16)
    theirs = torch_run("FP32StateAdamWeightDecay")
    assert worst(ours, theirs) < 2e-2  # float16 spacing is 1e-3 at 1; eight roundings of weights that feed back through Adam


def test_an_overflow_skips_the_update_of_weights_and_moments():
    net = Bag(start_values())
    net.boost.set_data(ms.Tensor(1e3, ms.float32))
    update = AdamUpdate(net.trainable_params(), AdamSettings())
    step = TrainStep(net, update, columns=("input_ids",), max_grad_norm=1.0)
    batch = make_batches(1)
    step(batch, updates=0, learning_rate=0.05, scale=LossScale(value=1.0))
    before = [p.asnumpy().copy() for p in (*update.parameters, *update.adam_m, *update.adam_v)]
    result = step(batch, updates=1, learning_rate=0.05, scale=LossScale(value=1e37))  # with boost the seed is 1e40: infinite
    after = [p.asnumpy() for p in (*update.parameters, *update.adam_m, *update.adam_v)]
    assert result.overflow
    assert np.isfinite(result.loss)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_labels_column_reaches_the_loss_whatever_the_order_of_the_columns():
    net = Bag(start_values())
    settings = AdamSettings(type="AdamW")
    step = TrainStep(net, AdamUpdate(net.trainable_params(), settings), columns=("labels", "input_ids"))
    batch = make_batches(1)[0]
    shuffled = batch | {"labels": (batch["input_ids"] + 1) % VOCAB}
    with_labels = step([shuffled], updates=0, learning_rate=0.0, scale=LossScale(value=1.0)).loss
    ids = batch["input_ids"]
    logits = start_values()["embedding"].astype(np.float64)[ids[:, :-1]] @ start_values()["out"].T + start_values()["bias"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, shuffled["labels"][:, 1:, None], -1).mean()
    assert with_labels == pytest.approx(expected, abs=1e-5)


def test_one_dimensional_parameters_and_biases_are_not_decayed_and_the_old_leak_needs_them_first():
    names, shapes = ["emb", "norm.weight", "x.bias", "w"], [(3, 4), (4,), (2, 2), (4, 4)]
    assert decayed(names, shapes) == (True, False, False, True)
    assert decayed(names, shapes, no_decay_leak=True) == (True, False, False, True)
    assert decayed(names[1:], shapes[1:], no_decay_leak=True) == (False, False, False)


def test_an_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"optimizer.type: got 'Adafactor'. Fix: one of FP32StateAdamWeightDecay, AdamW."):
        AdamSettings(type="Adafactor")
