"""Section `model`: MindFormers' `model_config`, and what it means in our words."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindformers_codellama.config.dialect import model_config_from
from mindformers_codellama.config.fields import check_fields, key
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.model_config import DTYPES, EXTEND_METHODS, ModelConfig
from mindformers_codellama.config.sections_pet import PetSection

DTYPE_SPELLINGS = {
    "float32": "float32",  # any case
    "float16": "float16",
    "bfloat16": "bfloat16",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "float": "float32",
    "half": "float16",
    "mstype.float32": "float32",
    "mstype.float16": "float16",
    "mstype.bfloat16": "bfloat16",
}


def dtype_key(default: str) -> str:
    """A key that holds a type, in any spelling MindFormers takes."""
    return key(default, choices=DTYPES, spellings=DTYPE_SPELLINGS)


@dataclass(frozen=True, kw_only=True)
class LlamaSettings:
    """`model.model_config` with MindFormers' keys and MindFormers' defaults (Llama 2 7B, float16).

    `ModelSection.config` and `ModelSection.generation` hold the same in our words; code outside
    `config` reads those.
    """

    type: str = key("LlamaConfig", choices=("LlamaConfig",))
    """Family of the model."""
    batch_size: int = key(1, low=1)
    """Rows generated at once; more or fewer prompts are taken as they come."""
    seq_length: int = key(2048, low=1)
    """Tokens of a training row, and the longest prompt plus answer."""
    hidden_size: int = key(4096, low=1)
    """D, width of the residual stream."""
    num_layers: int = key(32, low=1)
    """L, decoder blocks."""
    num_heads: int = key(32, low=1)
    """N, query heads."""
    n_kv_heads: int | None = key(None, low=1)
    """K, key and value heads; null is `num_heads`. 8 for 34B and 70B."""
    max_position_embedding: int | None = key(None, low=1)
    """Positions the weights were trained for; null is `seq_length`."""
    intermediate_size: int | None = key(None, low=1)
    """F, width of the feed-forward; null derives it from `multiple_of` and `ffn_dim_multiplier`."""
    vocab_size: int = key(32000, low=1)
    """V, rows of the embedding; 32016 for Code Llama 7B and 13B that can infill."""
    multiple_of: int = key(256, low=1)
    """The derived feed-forward width is rounded up to a multiple of this."""
    ffn_dim_multiplier: float | None = key(None, above=0)
    """Widens the derived feed-forward; null for all but 70B (1.3). 1.0 is not the same as null: 0.01 is added."""
    rms_norm_eps: float = key(1e-5, above=0)
    """Added to the mean square in RMSNorm."""
    bos_token_id: int = key(1, low=0)
    """Id of the piece that begins a text."""
    eos_token_id: int | tuple[int, ...] = key(2, low=0)
    """Id of the piece that ends a text; a list of several ends generation at any of them."""
    pad_token_id: int = key(0, low=0)
    """Id that fills short rows; it takes no part in attention or loss."""
    ignore_token_id: int = -100
    """Label that takes no part in the loss."""
    theta: float = key(10000.0, above=0)
    """Base of the rotary angles; 1000000.0 for Code Llama."""
    compute_dtype: str = dtype_key("float16")
    """Type of matrix products and of the KV cache."""
    layernorm_compute_type: str = dtype_key("float32")
    """Type inside RMSNorm."""
    softmax_compute_type: str = dtype_key("float32")
    """Type of the attention softmax."""
    rotary_dtype: str = dtype_key("float32")
    """Type of the rotation."""
    param_init_type: str = dtype_key("float16")
    """Type the weights are held in."""
    qkv_has_bias: bool = False
    """Biases on the query, key and value products."""
    qkv_concat: bool = False
    """One weight for query, key and value; False is the one value we have."""
    use_past: bool = False
    """Keep keys and values while generating. Training never does."""
    extend_method: str = key("None", choices=EXTEND_METHODS)
    """`PI` divides positions by `scaling_factor`, `NTK` multiplies `theta` by it."""
    scaling_factor: float = key(1.0, low=1)
    """How much longer than trained the context shall be."""
    is_dynamic: bool = False
    """Export: prompts may have any length up to `seq_length`. Prediction is always padded to a few lengths, both values are right."""
    use_kvcache_op: bool = False
    """Use Ascend's own operators for the cache; False is the one value we have."""
    is_flexible_shape: bool = False
    """Companion of `use_kvcache_op`."""
    use_rope_slice: bool = False
    """MindFormers' choice between two forms of the same rotation; ours has one form, both values are right."""
    use_flash_attention: bool = False
    """Fused attention; False is the one value we have."""
    use_paged_attention: bool = False
    """Cache in pages; False is the one value we have."""
    block_size: int = key(16, low=1)
    """Companion of `use_paged_attention`."""
    num_blocks: int = key(512, low=1)
    """Companion of `use_paged_attention`."""
    fine_grain_interleave: int = key(1, low=1)
    """Overlap of computing and communication; 1 is the one value we have."""
    offset: int | tuple[int, ...] = 0
    """Layers moved between pipeline stages; without meaning on one rank."""
    checkpoint_name_or_path: str = ""
    """Weights to start from: a `.ckpt`, a safetensors file, or a Hugging Face directory. `load_checkpoint` wins."""
    repetition_penalty: float = key(1.0, above=0)
    """Generation: divides the logits of tokens already seen; 1 is none."""
    max_decode_length: int = key(1024, low=1)
    """Generation: longest prompt plus answer."""
    max_length: int | None = key(None, low=1)
    """Generation: the same by another name; wins over `max_decode_length`."""
    max_new_tokens: int | None = key(None, low=1)
    """Generation: longest answer; wins over both."""
    top_k: int = key(5, low=0)
    """Generation: draw among this many tokens; 0 is all."""
    top_p: float = key(1.0, above=0, high=1)
    """Generation: draw among the fewest tokens that reach this probability."""
    do_sample: bool = True
    """Generation: draw at random; False takes the most likely token."""
    temperature: float = key(1.0, above=0)
    """Generation: logits are divided by this before drawing."""
    num_beams: int = key(1, low=1)
    """Generation: beams of beam search; 1 is none."""
    length_penalty: float = 1.0
    """Generation: exponent of the length in beam scores."""
    tie_word_embeddings: bool = False
    """Use the embedding as output head; False is the one value we have (no Code Llama or Llama 2 ties them)."""
    fused_rms_norm: bool = True
    """MindFormers' choice of a kernel; ours is chosen by device, both values are right."""
    parallel_optimizer: bool = False
    """Recorded without effect, with a note: old place of `parallel.enable_parallel_optimizer`."""
    pet_config: PetSection | None = None
    """Train a low-rank adapter instead of the weights (docs/lora.md); null trains the weights."""
    pretrain_seqlen: int | None = key(None, low=1)
    """Old name of `max_position_embedding`; read with a warning."""
    compute_in_2d: bool | None = None
    """Old switch without effect; read with a warning."""
    use_past_shard: bool | None = None
    """Old switch without effect; read with a warning."""

    def __post_init__(self) -> None:
        check_fields(self, "model.model_config")


@dataclass(frozen=True, kw_only=True)
class ArchSection:
    """`model.arch`: the network."""

    type: str = key("LlamaForCausalLM", choices=("LlamaForCausalLM",))
    """Name of the network."""

    def __post_init__(self) -> None:
        check_fields(self, "model.arch")


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """`model`: the network, its sizes, and how it generates."""

    model_config: LlamaSettings = field(default_factory=LlamaSettings)
    """As written in the YAML, in MindFormers' words."""
    arch: ArchSection = field(default_factory=ArchSection)
    """Name of the network."""

    def __post_init__(self) -> None:
        _ = self.config  # wrong combinations of sizes are refused at birth

    @property
    def config(self) -> ModelConfig:
        """Sizes, numbers and types of the network in our words."""
        return model_config_from(self.model_config)

    @property
    def generation(self) -> GenerationConfig:
        """How the network generates unless a caller says otherwise."""
        settings = self.model_config
        ends = settings.eos_token_id
        return GenerationConfig(
            max_length=settings.max_length or settings.max_decode_length,
            max_new_tokens=settings.max_new_tokens,
            do_sample=settings.do_sample,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            num_beams=settings.num_beams,
            length_penalty=settings.length_penalty,
            eos_token_ids=ends if isinstance(ends, tuple) else (ends,),
            pad_token_id=settings.pad_token_id,
            bos_token_id=settings.bos_token_id,
            use_past=settings.use_past,
        )

    @property
    def checkpoint_name_or_path(self) -> str:
        """Weights to start from, unless `load_checkpoint` names others."""
        return self.model_config.checkpoint_name_or_path

    @property
    def batch_size(self) -> int:
        """Rows generated at once."""
        return self.model_config.batch_size

    @property
    def use_past(self) -> bool:
        """Keep keys and values while generating."""
        return self.model_config.use_past

    @property
    def is_dynamic(self) -> bool:
        """Compile for any length."""
        return self.model_config.is_dynamic
