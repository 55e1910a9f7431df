"""One measurement of transformers on torch (CPU, fp32), printed as one JSON line. Run by compare.py in a process of its own."""

from __future__ import annotations

import time

import torch
import transformers
from workload import run_worker, shape_fields


def build_model(shape: str, positions: int) -> transformers.LlamaForCausalLM:
    f = shape_fields(shape)
    config = transformers.LlamaConfig(
        vocab_size=f["vocab_size"],
        hidden_size=f["hidden_size"],
        num_hidden_layers=f["num_layers"],
        num_attention_heads=f["num_heads"],
        num_key_value_heads=f["num_kv_heads"],
        intermediate_size=f["intermediate_size"],
        max_position_embeddings=positions,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


def measure_decode(shape: str, prompt: int, tokens: int) -> dict[str, float]:
    """Tokens per second of greedy decode after the prompt, batch 1, and seconds of the prompt alone."""
    model = build_model(shape, prompt + tokens + 1).eval()
    ids = torch.randint(3, 1000, (1, prompt))
    with torch.inference_mode():
        model(ids, use_cache=True)  # warm-up
        start = time.perf_counter()
        out = model(ids, use_cache=True)
        prefill = time.perf_counter() - start
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        for _ in range(3):
            out = model(token, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        for _ in range(tokens - 4):
            out = model(token, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        decode = time.perf_counter() - start
    return {"prefill_seconds": prefill, "decode_tokens_per_second": (tokens - 4) / decode}


def measure_training(shape: str, batch: int, seq_length: int, steps: int) -> dict[str, float]:
    """Tokens per second of forward, backward and AdamW, eager, fp32; the first two steps are not counted."""
    model = build_model(shape, seq_length).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    ids = torch.randint(3, 1000, (batch, seq_length))
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
    return {"training_tokens_per_second": batch * seq_length / sorted(times[2:])[steps // 2]}


if __name__ == "__main__":
    run_worker(
        __doc__,
        version=f"torch {torch.__version__}, transformers {transformers.__version__}",
        set_threads=torch.set_num_threads,
        decode=measure_decode,
        training=measure_training,
    )
