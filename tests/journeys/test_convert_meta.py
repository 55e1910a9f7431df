"""Meta's consolidated files against Meta's own rotary and parallel layers, written here anew in torch float64.

Oracle for the rotary order: `apply_rotary_emb` of meta-llama/codellama llama/model.py (complex products over
neighbouring pairs). Ours is the half-split rotation every Hugging Face and MindFormers Llama uses.
"""

import json

import numpy as np
import pytest

from mindformers_codellama.checkpoint import meta_format
from mindformers_codellama.checkpoint.convert import convert
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.errors import CheckpointError, Findings

torch = pytest.importorskip("torch", reason="torch writes the .pth files these tests convert")

V, D, L, N, F, THETA = 64, 32, 2, 4, 48, 1e6
H = D // N
COLUMN = ("wq", "wk", "wv", "w1", "w3", "output")
ROW = ("wo", "w2", "tok_embeddings")


def meta_state(kv_heads, dtype):
    torch.manual_seed(2)
    shapes = {"tok_embeddings.weight": (V, D), "norm.weight": (D,), "output.weight": (V, D)}
    for i in range(L):
        shapes |= {
            f"layers.{i}.attention.wq.weight": (D, D),
            f"layers.{i}.attention.wk.weight": (kv_heads * H, D),
            f"layers.{i}.attention.wv.weight": (kv_heads * H, D),
            f"layers.{i}.attention.wo.weight": (D, D),
            f"layers.{i}.feed_forward.w1.weight": (F, D),
            f"layers.{i}.feed_forward.w2.weight": (D, F),
            f"layers.{i}.feed_forward.w3.weight": (F, D),
            f"layers.{i}.attention_norm.weight": (D,),
            f"layers.{i}.ffn_norm.weight": (D,),
        }
    state = {name: torch.randn(shape, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}
    return state | {"rope.freqs": torch.ones(H // 2)}


def write_meta(folder, state, kv_heads, parts):
    """Meta's split: column-parallel rows, row-parallel and embedding columns, everything else in each part."""
    folder.mkdir()
    params = {"dim": D, "n_layers": L, "n_heads": N, "multiple_of": 16, "norm_eps": 1e-5, "vocab_size": -1, "rope_theta": THETA}
    if kv_heads != N:
        params["n_kv_heads"] = kv_heads
    (folder / "params.json").write_text(json.dumps(params))
    for part in range(parts):
        mine = {}
        for name, tensor in state.items():
            kind = name.split(".")[-2]
            axis = 0 if kind in COLUMN else 1 if kind in ROW else None
            mine[name] = tensor if axis is None else tensor.chunk(parts, axis)[part].clone()
        torch.save(mine, folder / f"consolidated.{part:02d}.pth")
    return folder


def meta_attention(x_SD, wq, wk, wv, kv_heads):
    """Attention output of Meta's Attention.forward without cache and wo, float64."""
    S = x_SD.shape[0]
    angles = torch.outer(torch.arange(S, dtype=torch.float64), THETA ** (-torch.arange(0, H, 2, dtype=torch.float64) / H))
    turn_SP = torch.polar(torch.ones_like(angles), angles)

    def rotate(y_SNH):
        pairs = torch.view_as_complex(y_SNH.reshape(S, -1, H // 2, 2).contiguous())
        return torch.view_as_real(pairs * turn_SP[:, None]).flatten(2)

    q = rotate((x_SD @ wq.T).view(S, N, H))
    k = rotate((x_SD @ wk.T).view(S, kv_heads, H))
    return attend(q, k, (x_SD @ wv.T).view(S, kv_heads, H), kv_heads)


def half_attention(x_SD, wq, wk, wv, kv_heads):
    """The same with the half-split rotation of Hugging Face."""
    S = x_SD.shape[0]
    angles = torch.outer(torch.arange(S, dtype=torch.float64), THETA ** (-torch.arange(0, H, 2, dtype=torch.float64) / H))
    cos, sin = torch.cat([angles, angles], -1).cos()[:, None], torch.cat([angles, angles], -1).sin()[:, None]

    def rotate(y_SNH):
        half = torch.cat([-y_SNH[..., H // 2 :], y_SNH[..., : H // 2]], -1)
        return y_SNH * cos + half * sin

    q = rotate((x_SD @ wq.T).view(S, N, H))
    k = rotate((x_SD @ wk.T).view(S, kv_heads, H))
    return attend(q, k, (x_SD @ wv.T).view(S, kv_heads, H), kv_heads)


def attend(q_SNH, k_TKH, v_TKH, kv_heads):
    k, v = (t.repeat_interleave(N // kv_heads, 1) for t in (k_TKH, v_TKH))
    scores = torch.einsum("snh,tnh->nst", q_SNH, k) / H**0.5
    scores = scores.masked_fill(torch.triu(torch.ones_like(scores, dtype=torch.bool), 1), -torch.inf)
    return torch.einsum("nst,tnh->snh", scores.softmax(-1), v)


def converted_attention_error(path, state, kv_heads):
    """Largest difference between Meta's attention on its weights and the half-split one on ours, layer 0, float64."""
    x = torch.randn(11, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 0.3
    theirs = [state[f"layers.0.attention.{w}.weight"].double() for w in ("wq", "wk", "wv")]
    reader = open_checkpoint(path)
    ours = [torch.from_numpy(reader.read(f"model.layers.0.attention.{w}.weight").astype(np.float64)) for w in ("wq", "wk", "wv")]
    return (meta_attention(x, *theirs, kv_heads) - half_attention(x, *ours, kv_heads)).abs().max().item()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_converted_weights_give_metas_attention(tmp_path, kv_heads, parts):
    state = meta_state(kv_heads, torch.float16)
    folder = write_meta(tmp_path / "meta", state, kv_heads, parts)
    convert(folder, tmp_path / "x.ckpt")
    # both sides are float64 on equal weights: only rounding of some hundred operations of order 1
    assert converted_attention_error(tmp_path / "x.ckpt", state, kv_heads) < 1e-12


def test_without_the_permutation_the_attention_is_wrong(tmp_path, monkeypatch):
    """The seeded break: the test above can fail."""
    monkeypatch.setattr(meta_format, "pairs_to_halves", lambda weight, heads: weight)
    state = meta_state(2, torch.float16)
    convert(write_meta(tmp_path / "meta", state, 2, 1), tmp_path / "x.ckpt")
    assert converted_attention_error(tmp_path / "x.ckpt", state, 2) > 1e-2


def test_with_query_heads_for_the_keys_the_attention_is_wrong(tmp_path, monkeypatch):
    """The seeded break of grouped heads: wk permuted as if it had N heads."""
    right = meta_format.pairs_to_halves
    monkeypatch.setattr(meta_format, "pairs_to_halves", lambda weight, heads: right(weight, N))
    state = meta_state(2, torch.float16)
    convert(write_meta(tmp_path / "meta", state, 2, 1), tmp_path / "x.ckpt")
    assert converted_attention_error(tmp_path / "x.ckpt", state, 2) > 1e-2


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_join_to_the_whole_bit_for_bit(tmp_path, parts):
    state = meta_state(4, torch.bfloat16)
    reader = open_checkpoint(write_meta(tmp_path / "meta", state, 4, parts))
    names = {
        "tok_embeddings.weight": "model.tok_embeddings.embedding_weight",
        "norm.weight": "model.norm_out.weight",
        "output.weight": "lm_head.weight",
        "layers.1.attention.wv.weight": "model.layers.1.attention.wv.weight",
        "layers.1.attention.wo.weight": "model.layers.1.attention.wo.weight",
        "layers.1.feed_forward.w2.weight": "model.layers.1.feed_forward.w2.weight",
        "layers.1.ffn_norm.weight": "model.layers.1.ffn_norm.weight",
    }
    for theirs, ours in names.items():
        assert reader.read(ours).tobytes() == state[theirs].view(torch.uint8).numpy().tobytes(), theirs
    assert reader.dropped == ("rope.freqs",)


def test_params_json_and_weights_give_the_configuration(tmp_path):
    config = open_checkpoint(write_meta(tmp_path / "meta", meta_state(2, torch.float16), 2, 2)).config
    assert (config.vocab_size, config.hidden_size, config.num_layers, config.intermediate_size) == (V, D, L, F)
    assert (config.num_heads, config.num_kv_heads, config.rope_theta, config.rms_norm_eps) == (N, 2, THETA, 1e-5)


def test_meta_to_hugging_face_gives_logits_of_a_model_with_those_weights(tmp_path):
    """Through transformers' own Llama: attention, feed-forward, norms and head from one converted directory."""
    transformers = pytest.importorskip("transformers")
    state = meta_state(2, torch.float32)
    convert(write_meta(tmp_path / "meta", state, 2, 2), tmp_path / "hf", to="hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float64).eval()
    ids = torch.arange(3, 14)
    with torch.no_grad():
        ours = model(ids[None]).logits[0]
    w = {name: tensor.double() for name, tensor in state.items()}

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight

    x = w["tok_embeddings.weight"][ids]
    for i in range(L):
        a, f = f"layers.{i}.attention.", f"layers.{i}.feed_forward."
        h = norm(x, w[f"layers.{i}.attention_norm.weight"])
        x = x + meta_attention(h, *(w[f"{a}{p}.weight"] for p in ("wq", "wk", "wv")), 2).flatten(1) @ w[a + "wo.weight"].T
        h = norm(x, w[f"layers.{i}.ffn_norm.weight"])
        x = x + (torch.nn.functional.silu(h @ w[f + "w1.weight"].T) * (h @ w[f + "w3.weight"].T)) @ w[f + "w2.weight"].T
    theirs = norm(x, w["norm.weight"]) @ w["output.weight"].T
    # transformers keeps rotary angles and norms in float32 whatever the model's type
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5


def test_damaged_meta_directories_are_refused(tmp_path):
    folder = write_meta(tmp_path / "meta", meta_state(2, torch.float16), 2, 2)
    (folder / "consolidated.01.pth").rename(folder / "consolidated.02.pth")
    with pytest.raises(CheckpointError, match="without a gap"):
        open_checkpoint(folder)
    torch.save({"norm.weight": torch.ones(D)}, folder / "consolidated.01.pth")
    (folder / "consolidated.02.pth").unlink()
    with pytest.raises(Findings, match="is in some parts only"):
        open_checkpoint(folder)
    (folder / "params.json").write_text('{"dim": 32}')
    with pytest.raises(CheckpointError, match="not Meta's params.json"):
        open_checkpoint(folder)
    (folder / "params.json").unlink()
    with pytest.raises(CheckpointError, match="copy params.json beside"):
        open_checkpoint(folder)
