"""Writes tests/golden/logits_transformers.json: logits of transformers' LlamaForCausalLM on weights anyone can make again.

    python tests/golden/make_logits.py           write the file
    python tests/golden/make_logits.py --check   fail when the file differs by more than 1e-6 from what is made now

The weights come from `model.initial.initial_value` (numpy, a function of name and seed), so none are stored and the
test needs neither torch nor transformers. Names are mapped here by a table of their own, not by the converter.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np

from mindformers_codellama.model.initial import initial_value

FILE = Path(__file__).with_name("logits_transformers.json")
SIZES = {"vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
SEED, STD, LENGTH = 17, 0.25, 12
CASES = ((4, 1e4), (4, 1e6), (2, 1e6), (1, 1e6))
"""(num_kv_heads, rope_theta)."""
NAMES = (
    ("model.embed_tokens.weight", "model.tok_embeddings.embedding_weight"),
    ("self_attn.q_proj", "attention.wq"), ("self_attn.k_proj", "attention.wk"), ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"), ("mlp.gate_proj", "feed_forward.w1"), ("mlp.down_proj", "feed_forward.w2"),
    ("mlp.up_proj", "feed_forward.w3"), ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm"),
    ("model.norm.", "model.norm_out."),
)  # fmt: skip


def token_ids() -> list[int]:
    return [int(token) for token in np.random.default_rng(SEED).integers(1, SIZES["vocab_size"], LENGTH)]


def reference_logits(num_kv_heads: int, theta: float) -> list[list[float]]:
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=SIZES["vocab_size"], hidden_size=SIZES["hidden_size"], num_hidden_layers=SIZES["num_layers"],
        num_attention_heads=SIZES["num_heads"], num_key_value_heads=num_kv_heads, intermediate_size=SIZES["intermediate_size"],
        max_position_embeddings=64, rope_theta=theta, rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for theirs, ours in NAMES:
                name = name.replace(theirs, ours)
            parameter.copy_(torch.from_numpy(initial_value(name, tuple(parameter.shape), SEED, std=STD)))
        logits = model(torch.tensor([token_ids()])).logits[0]
    return [[round(float(value), 7) for value in row] for row in logits]


def make() -> dict:
    import torch
    import transformers

    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    cases = [{"num_kv_heads": kv, "rope_theta": theta, "logits": reference_logits(kv, theta)} for kv, theta in CASES]
    made_by = {"generator": "tests/golden/make_logits.py", **versions}
    return {"made_by": made_by, "sizes": SIZES, "seed": SEED, "std": STD, "ids": token_ids(), "cases": cases}


def main() -> int:
    golden = make()
    if "--check" in sys.argv:
        stored = json.loads(FILE.read_text())
        worst = max(
            float(np.abs(np.subtract(old["logits"], new["logits"])).max())
            for old, new in zip(stored["cases"], golden["cases"], strict=True)
        )
        print(f"largest difference {worst:.1e}")
        return int(worst > 1e-6 or stored["ids"] != golden["ids"] or stored["sizes"] != golden["sizes"])
    FILE.write_text(json.dumps(golden) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
