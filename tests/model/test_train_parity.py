"""Twenty training steps of a toy Llama against transformers on torch with torch.optim.AdamW.

Same initial weights, batches, schedule, clipping and decay groups; the torch side runs in float64, so what
is compared is our float32 against the true numbers, in plain operators and with the kernels.

Bounds: losses (about 4) and weights (up to 1) to 5e-6. Measured: 8e-7 and 4e-7. Adam divides gradients by
their own size, so float32 noise of a small gradient becomes a share of the learning rate (1e-3). The broken
runs below differ by 7e-5 (no decay) and 2e-3 (no bias correction).
"""

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.schedule import Schedule
from mindformers_codellama.train.step import TrainStep

torch = pytest.importorskip("torch", reason="the reference is torch with transformers: pip install .[test]")
transformers = pytest.importorskip("transformers")

STEPS, CLIP, DECAY = 20, 1.0, 0.1
SIZES = {"vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 48}
CONFIG = ModelConfig(**SIZES, seq_length=16, max_position=16, rope_theta=1e6)
SETTINGS = {"type": "AdamW", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": DECAY}
SCHEDULE = {"type": "CosineWithWarmUpLR", "learning_rate": 1e-3, "warmup_steps": 3, "total_steps": STEPS}
NAMES = {
    "embed_tokens": "tok_embeddings", "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm", "model.norm.": "model.norm_out.",
}  # fmt: skip
LOSS_BOUND, WEIGHT_BOUND = 5e-6, 5e-6


def our_name(name):
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name.replace("tok_embeddings.weight", "tok_embeddings.embedding_weight")


def torch_model():
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=16, rope_theta=1e6, rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double()


def make_batches():
    """Rows with padding at the end and, in `labels`, masked questions."""
    rng = np.random.default_rng(8)
    for _ in range(STEPS):
        ids = rng.integers(3, CONFIG.vocab_size, (4, 17)).astype(np.int32)
        ids[0, 12:] = 0
        labels = ids.copy()
        labels[1, :6] = -100
        labels[0, 12:] = -100
        yield {"input_ids": ids, "labels": labels}


@pytest.fixture(scope="module")
def reference():
    """(initial weights, losses, final weights) of the torch run, by our names."""
    model = torch_model()
    initial = {our_name(k): v.detach().float().numpy().copy() for k, v in model.named_parameters()}
    with torch.no_grad():  # the same float32 start
        for name, value in model.named_parameters():
            value.copy_(torch.tensor(initial[our_name(name)], dtype=torch.float64))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    rate, losses = Schedule(**SCHEDULE), []
    for step, batch in enumerate(make_batches()):
        ids = torch.tensor(batch["input_ids"], dtype=torch.long)
        tokens, labels = ids[:, :-1], torch.tensor(batch["labels"], dtype=torch.long)[:, 1:]
        logits = model(tokens, attention_mask=(tokens != 0).long()).logits
        kept = ((tokens != 0) & (labels != -100)).double()
        entropy = torch.nn.functional.cross_entropy(logits.reshape(-1, 61), labels.clamp(min=0).reshape(-1), reduction="none")
        loss = (entropy * kept.reshape(-1)).sum() / (kept.sum() + 1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        losses.append(loss.item())
    return initial, losses, {our_name(k): v.detach().numpy() for k, v in model.named_parameters()}


@pytest.fixture(scope="module", params=["off", "auto"], ids=["plain", "kernels"])
def step(request):
    """Compiled once per path: what differs between the runs below enters as numbers."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    if choose_kernels(request.param) is None and request.param == "auto":
        pytest.skip("the kernel library cannot be used")
    network = LlamaNetwork(CONFIG)
    update = AdamUpdate(network.trainable_params(), AdamSettings(**SETTINGS))
    return TrainStep(TrainingLoss(network), update, columns=("input_ids", "labels"), max_grad_norm=CLIP)


def our_run(step, initial, **settings):
    update = step.update
    update.settings = AdamSettings(**SETTINGS | settings)
    for parameter in update.parameters:
        ms.ops.assign(parameter, ms.Tensor(initial[parameter.name]))
    for moment in (*update.adam_m, *update.adam_v):
        ms.ops.assign(moment, ms.ops.zeros_like(moment))
    rate = Schedule(**SCHEDULE)
    scale = LossScale(value=1024.0)
    losses = [step([b], updates=i, learning_rate=rate(i), scale=scale).loss for i, b in enumerate(make_batches())]
    return losses, {parameter.name: parameter.asnumpy() for parameter in update.parameters}


def distances(ours, reference):
    losses = np.abs(np.array(ours[0]) - np.array(reference[1])).max()
    weights = max(np.abs(ours[1][name] - value).max() for name, value in reference[2].items())
    return losses, weights


def test_twenty_adamw_steps_give_torchs_losses_and_weights(step, reference):
    losses, weights = distances(our_run(step, reference[0]), reference)
    assert losses < LOSS_BOUND
    assert weights < WEIGHT_BOUND


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_decay": 0.0},
        {"type": "FP32StateAdamWeightDecay"},
    ],
    ids=["no decay", "no bias correction"],
)
def test_the_comparison_fails_for_a_wrong_decay_or_correction(step, reference, wrong):
    losses, weights = distances(our_run(step, reference[0], **wrong), reference)
    assert max(losses / LOSS_BOUND, weights / WEIGHT_BOUND) > 5
