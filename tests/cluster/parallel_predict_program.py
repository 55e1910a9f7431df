"""One rank of a model that generates: the same tokens as the whole model in this process. Run by test_parallel_predict.py."""

import json
import sys

import numpy as np

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM
from mindformers_codellama.pipelines.ranks import join_ranks
from mindformers_codellama.runtime.context import enter_context

CONFIG = ModelConfig(
    vocab_size=296,
    hidden_size=64,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    intermediate_size=96,
    seq_length=80,
    max_position=80,
    compute_dtype="float32",
    layernorm_compute_dtype="float32",
    softmax_compute_dtype="float32",
    rotary_dtype="float32",
    param_init_dtype="float32",
    qkv_has_bias=False,
)
LENGTHS = (5, 41, 12)


def main(ranks: int) -> None:
    """Compare greedy and drawn answers, with and without a cache, whole and cut vocabulary; print the tokens."""
    enter_context(ContextSection(device_target="CPU", mode=0, runtime_num_threads=1))
    rng = np.random.default_rng(11)
    prompts = [rng.integers(3, CONFIG.vocab_size, length).tolist() for length in LENGTHS]
    whole = LlamaForCausalLM(CONFIG)
    init_parameters(whole, 4, std=0.15)
    for cut in (False, True):
        held = join_ranks(CONFIG, Layout(model_parallel=ranks), vocabulary_cut=cut)
        own = LlamaForCausalLM(CONFIG, ranks=held)
        init_parameters(own, 4, std=0.15, model_layout=held.model_layout, rank=held.comm.rank)
        assert dict(own.parameters_and_names())["model.layers.0.attention.wk.weight"].shape == (32 // ranks, 64)
        for use_past in (True, False):
            for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 1.3, "top_k": 20, "seed": 9}):
                options = GenerationConfig(max_new_tokens=20, eos_token_ids=(2,), use_past=use_past, **sampling)
                expected = [row.tolist() for row in whole.generate(prompts, options)]
                found = [row.tolist() for row in own.generate(prompts, options)]
                assert found == expected, (cut, use_past, sampling, found, expected)
                print("TOKENS", json.dumps(found), flush=True)
    held.comm.wait_for_all()


if __name__ == "__main__":
    main(int(sys.argv[1]))
