"""Sections about the machine: `context`, and how a model is spread over ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindformers_codellama.config.fields import check_fields, key

PARALLEL_MODES = ("data_parallel", "semi_auto_parallel", "auto_parallel", "hybrid_parallel")
"""Names of the numbers 0 to 3."""


@dataclass(frozen=True, kw_only=True)
class AscendConfigSection:
    """`context.ascend_config`: passed on to MindSpore on Ascend, without meaning on the CPU."""

    precision_mode: str = key(
        "",
        choices=(
            "",
            "must_keep_origin_dtype",
            "allow_fp32_to_fp16",
            "force_fp16",
            "force_fp32",
            "allow_mix_precision",
            "allow_fp32_to_bf16",
            "allow_mix_precision_fp16",
            "allow_mix_precision_bf16",
        ),
    )
    """How operators may change their type; `must_keep_origin_dtype` for prediction."""
    parallel_speed_up_json_path: str = ""
    """Recorded without effect, with a note: options of communication between ranks."""

    def __post_init__(self) -> None:
        check_fields(self, "context.ascend_config")


@dataclass(frozen=True, kw_only=True)
class JitConfigSection:
    """`context.jit_config`: how graphs are compiled."""

    jit_level: str = key("", choices=("", "O0", "O1", "O2"))
    """Level of graph compilation; empty leaves MindSpore's choice."""

    def __post_init__(self) -> None:
        check_fields(self, "context.jit_config")


@dataclass(frozen=True, kw_only=True)
class ContextSection:
    """`context`: device and execution mode."""

    mode: int = key(0, choices=(0, 1), spellings={"graph_mode": 0, "pynative_mode": 1})
    """0 graph, 1 PyNative (slower, for looking inside)."""
    device_target: str = key("Ascend", choices=("Ascend", "CPU"), spellings={"cpu": "CPU", "ascend": "Ascend"})
    """`CPU` or `Ascend`."""
    device_id: int = key(0, low=0)
    """Which Ascend device; without meaning on the CPU. The environment's DEVICE_ID wins when set by a launcher."""
    max_call_depth: int = key(10000, low=1)
    """Depth of nested calls a graph may have."""
    max_device_memory: str = "1024GB"
    """Memory MindSpore may take on Ascend, such as `48GB`; without meaning on the CPU."""
    runtime_num_threads: int | None = key(None, low=1)
    """Threads of MindSpore's runtime; None lets MindSpore decide."""
    enable_graph_kernel: bool = False
    """Fuse operators into generated kernels; False is the one value we have."""
    graph_kernel_flags: str = ""
    """Companion of `enable_graph_kernel`."""
    save_graphs: bool | int = False
    """Write the compiled graphs, for looking inside; 1 to 3 write more."""
    save_graphs_path: str = "./graph"
    """Where graphs are written."""
    ascend_config: AscendConfigSection = field(default_factory=AscendConfigSection)
    """Options for Ascend."""
    jit_config: JitConfigSection = field(default_factory=JitConfigSection)
    """Options of graph compilation."""

    def __post_init__(self) -> None:
        check_fields(self, "context")


@dataclass(frozen=True, kw_only=True)
class ParallelOptimizerConfigSection:
    """`parallel.parallel_optimizer_config`: how optimizer state is cut over data-parallel ranks."""

    gradient_accumulation_shard: bool = False
    """Cut accumulated gradients as well."""
    parallel_optimizer_threshold: int = key(64, low=0)
    """Parameters smaller than this many kilobytes are not cut."""
    optimizer_weight_shard_size: int = key(-1, low=1, also=(-1,))
    """Ranks a state is cut over; -1 is all data-parallel ranks."""

    def __post_init__(self) -> None:
        check_fields(self, "parallel.parallel_optimizer_config")


@dataclass(frozen=True, kw_only=True)
class ParallelSection:
    """`parallel`: how ranks work together."""

    parallel_mode: int = key(1, choices=(0, 1, 2, 3), spellings={name: number for number, name in enumerate(PARALLEL_MODES)})
    """0: every rank is a copy with a loss of its own. 1: the degrees of `parallel_config`, one loss over all. 2, 3: refused."""
    gradients_mean: bool = False
    """In `parallel_mode: 0`: average gradients over ranks instead of adding them. In mode 1 the loss is one mean already."""
    enable_alltoall: bool = False
    """Redistribution for experts, which there are none of; True is refused in training."""
    full_batch: bool = True
    """Ranks share a batch of `batch_size` rows per copy; otherwise every rank brings `batch_size` rows of its own (docs/parallel.md)."""
    search_mode: str = key("sharding_propagation", choices=("sharding_propagation", "dynamic_programming", "recursive_programming"))
    """Recorded without effect: search of automatic parallelism."""
    enable_parallel_optimizer: bool = False
    """Cut optimizer state over data-parallel ranks."""
    strategy_ckpt_save_file: str = "./ckpt_strategy.ckpt"
    """Its base name names the strategy files under `output_dir/strategy`."""
    parallel_optimizer_config: ParallelOptimizerConfigSection = field(default_factory=ParallelOptimizerConfigSection)
    """How the state is cut."""

    def __post_init__(self) -> None:
        check_fields(self, "parallel")


@dataclass(frozen=True, kw_only=True)
class ParallelConfigSection:
    """`parallel_config`: the degrees; their product is the number of ranks."""

    data_parallel: int = key(1, low=1)
    """Copies of the model, each with its own rows."""
    model_parallel: int = key(1, low=1)
    """Ranks that share each layer."""
    pipeline_stage: int = key(1, low=1)
    """Groups of layers, each on its own ranks."""
    micro_batch_num: int = key(1, low=1)
    """Micro batches in a pipeline; at least `pipeline_stage`."""
    use_seq_parallel: bool = False
    """Cut the residual stream along positions between layers."""
    vocab_emb_dp: bool = True
    """Keep the embedding whole on every model-parallel rank; False cuts it by vocabulary."""
    gradient_aggregation_group: int = key(4, low=1)
    """Groups of gradients that are communicated together."""
    optimizer_shard: bool | None = None
    """Recorded without effect, with a note: old place of `parallel.enable_parallel_optimizer`."""
    expert_parallel: int = key(1, low=1)
    """Ranks over experts; 1 is the one value we have (no experts)."""
    context_parallel: int = key(1, low=1)
    """Ranks over positions inside attention; 1 is the one value we have."""

    def __post_init__(self) -> None:
        check_fields(self, "parallel_config")

    @property
    def ranks(self) -> int:
        """The number of ranks these degrees ask for."""
        return self.data_parallel * self.model_parallel * self.pipeline_stage


@dataclass(frozen=True, kw_only=True)
class MoeConfigSection:
    """`moe_config`: mixture of experts, which no Code Llama or Llama 2 has."""

    expert_num: int = key(1, low=1)
    """Experts; 1 is the one value we have, the dense feed-forward."""
    num_experts_chosen: int = key(1, low=1)
    """Companion of `expert_num`."""
    capacity_factor: float = key(1.1, above=0)
    """Companion of `expert_num`."""
    aux_loss_factor: float = key(0.05, low=0)
    """Companion of `expert_num`."""
    routing_policy: str | None = None
    """Companion of `expert_num`."""
    enable_sdrop: bool = False
    """Companion of `expert_num`."""

    def __post_init__(self) -> None:
        check_fields(self, "moe_config")
