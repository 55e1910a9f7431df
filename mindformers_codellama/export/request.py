"""What is to be exported, how large it will be, and what cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mindformers_codellama.checkpoint.packed_layout import slots
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.weight_forms import EXPORTED_FORMS, PACKED_FORMS
from mindformers_codellama.errors import CodeLlamaError, ConfigError
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.mindir.manifest import GROUPS, KERNELS, OPERATORS, STANDARD
from mindformers_codellama.mindir.protocol import FULL, INC, SINGLE
from mindformers_codellama.quantization.formats import DEFAULT_GROUP, padded_columns

LONG = 4096
"""Positions above which graphs of fixed shapes are worth a warning: every prompt is computed over all of them."""
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
ENCRYPTED_LIMIT = 1 << 30
"""Bytes of weights and caches above which MindSpore writes two files."""
GRAPH_BYTES = 60_000
"""About what a layer takes in a graph file; every rank writes one or two graphs."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What a person asks for."""

    folder: Path
    """The export directory: `output_dir` of a configuration."""
    batch_size: int = 1
    dynamic: bool = False
    single: bool = False
    """One graph for prompts and steps; needs `dynamic`."""
    blocks: int = 0
    """Blocks of a paged cache, of which one belongs to no row; 0 gives each row its own positions."""
    block_size: int = 16
    """Positions of a block."""
    operators: str = STANDARD
    """One of `OPERATORS`: graphs that run wherever MindSpore does, or graphs of this package's CPU kernels."""
    form: str = ""
    """`int8` or `int4` (and with the kernels `bfloat16`): how matrices are held; empty holds them in `param_init_dtype`."""
    group: int = DEFAULT_GROUP
    """Columns that share a scale, of int8 and int4."""
    target: str = "cpu"
    verify: bool = True
    key_file: Path | None = None
    """Encrypt with its key."""
    force: bool = False
    tokenizer: Mapping[str, str] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    """Tokens of a text, for the comparison with the model."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Graphs that are written."""
        return (SINGLE,) if self.single else (FULL, INC)


@dataclass(frozen=True, kw_only=True)
class ExportSizes:
    """Bytes of one rank, before anything is built."""

    weights: int
    """Of the network."""
    held: int
    """Of the same weights in the form they are written in."""
    cache: int
    graphs: int

    one_cache: int
    """One cache tensor: empty caches are one run of zeros in the file, as long as this."""

    encrypted: int = 0
    """Files of encrypted graphs, each with its own weights and caches; 0 when graphs are not encrypted."""

    scores: int = 0
    """Attention scores of one layer while a prompt of all positions is read; 0 when prompts may be shorter."""

    @property
    def disk(self) -> int:
        """Weights stand once for all graphs, unless these are encrypted."""
        if self.encrypted:
            return self.encrypted * (self.held + self.cache) + self.graphs
        return self.held + self.one_cache + self.graphs

    @property
    def memory(self) -> int:
        """At most, beside the 0.4 GB of MindSpore itself: the network, what compiling copies, caches, tensors on their way to disk.

        Measured with 0.97 GB of float32 weights: 1.5 GB.
        """
        return 2 * self.weights + 4 * self.cache

    @property
    def memory_verifying(self) -> int:
        """At most while graphs are compared with the model: MindSpore reads a data file whole before it copies tensors out of it, and
        the second graph has its own weights until it shares the first one's.
        A graph of fixed shapes computes all positions of every prompt.

        Measured with 0.97 GB of float32 weights: 3.3 GB.
        """
        return 4 * self.weights + 4 * self.cache + 3 * self.scores


def integer_bytes(name: str, shape: tuple[int, ...], form: str) -> int | None:
    """Bytes of a matrix and its scales; None for what stays floating."""
    if len(shape) != 2 or not form or "embedding" in name:
        return None
    width = padded_columns(shape[1], form, DEFAULT_GROUP)
    return shape[0] * (width // (2 if form == "int4" else 1) + width // DEFAULT_GROUP * 4)


def export_sizes(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], request: ExportRequest, degree: int) -> ExportSizes:
    """What one rank needs.

    Args:
        config: of the model.
        shapes: of its own weights.
        request: rows and graphs.
        degree: ranks that share each layer.
    """
    if request.operators == KERNELS:
        return _kernel_sizes(config, shapes, request)
    width, norm = WIDTHS[config.param_init_dtype], WIDTHS["float32"]
    sizes = [math.prod(shape) * (norm if len(shape) == 1 and "norm" in name else width) for name, shape in shapes.items()]
    heads = config.num_kv_heads // degree
    positions = request.blocks * request.block_size or request.batch_size * config.seq_length
    one = positions * heads * config.head_dim * WIDTHS[config.compute_dtype]
    held = sum(integer_bytes(name, shape, request.form) or size for (name, shape), size in zip(shapes.items(), sizes, strict=True))
    return ExportSizes(
        weights=sum(sizes),
        held=held,
        cache=2 * config.num_layers * one,
        one_cache=one,
        encrypted=len(request.roles) if request.key_file is not None else 0,
        scores=0 if request.dynamic else request.batch_size * config.num_heads // degree * config.seq_length**2 * 4,
        graphs=GRAPH_BYTES * (config.num_layers + 1) * len(request.roles),
    )


def _kernel_sizes(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], request: ExportRequest) -> ExportSizes:
    """Of graphs of the kernels: weights in the kernels' layout, one pair of pools, rotary tables, no scores."""
    tables = 2 * config.seq_length * config.head_dim * 4
    if request.form in PACKED_FORMS:
        arrays = slots(config, request.form, 0 if request.form == "bfloat16" else request.group)
        weights = sum(slot.nbytes for slot in arrays.values())
    else:
        weights = sum(math.prod(shape) * 4 for shape in shapes.values())
    pages = request.batch_size * -(-config.seq_length // 64)
    head = -(-config.head_dim // 16) * 16
    one = pages * config.num_layers * config.num_kv_heads * 64 * head * (2 if request.form else 4)
    return ExportSizes(weights=weights, held=weights + tables, cache=2 * one, one_cache=one, graphs=GRAPH_BYTES * len(request.roles))


def request_findings(config: ModelConfig, layout: Layout, request: ExportRequest, sizes: ExportSizes) -> Iterator[CodeLlamaError]:
    """What of a request cannot be exported."""
    if request.key_file is not None and sizes.held + sizes.cache > ENCRYPTED_LIMIT:
        size = sizes.held + sizes.cache
        problem = f"cannot be used: MindSpore encrypts graph, weights and caches in one file of up to 1 GiB, and these take {size} bytes."
        yield ConfigError("--key-file", problem, fix="leave it out and encrypt the disk, or export over more ranks.")
    if request.key_file is not None and layout.ranks > 1 and request.target != "cpu":
        problem = "encrypted graphs of several ranks keep the name of the group they were compared in."
        yield ConfigError("--target", f"got {request.target!r}: {problem}", fix="leave out --target or --key-file.")
    if request.target not in GROUPS:
        yield ConfigError("--target", f"got {request.target!r}.", fix=f"one of {', '.join(GROUPS)}.")
    if request.batch_size < 1:
        yield ConfigError("--batch-size", f"got {request.batch_size}, must be at least 1.")
    if request.operators not in OPERATORS:
        yield ConfigError("--operators", f"got {request.operators!r}.", fix=f"one of {', '.join(OPERATORS)}.")
    if request.single and not request.dynamic:
        yield ConfigError("--single", "one graph for prompts and steps has lengths that are not fixed.", fix="add --dynamic.")
    if request.operators == KERNELS:
        yield from _kernel_findings(config, layout, request)
    elif request.form:
        yield from _integer_findings(config, layout, request)
    if request.blocks:
        yield from _paged_findings(config, request)
    if config.seq_length < 2:
        yield ConfigError("model.model_config.seq_length", f"got {config.seq_length}, must be at least 2.")
    if layout.data_parallel > 1:
        problem = f"got {layout.data_parallel}; copies of the same graphs are not exported."
        yield ConfigError("parallel_config.data_parallel", problem, fix="write 1, and model_parallel: the number of ranks.")


def _kernel_findings(config: ModelConfig, layout: Layout, request: ExportRequest) -> Iterator[CodeLlamaError]:
    """What graphs of the kernels cannot do, each with its reason."""
    where, what = "--operators", f"got {KERNELS}"
    standard = f"leave out --operators, or write {STANDARD}."
    if request.target != "cpu":
        problem = (
            f"{what} for the target {request.target}: these operators are a library of CPU instructions, which {request.target} cannot run."
        )
        yield ConfigError(where, problem, fix=standard)
    if layout.ranks > 1:
        yield ConfigError(where, f"{what} on {layout.ranks} ranks, but the kernels hold a whole model.", fix=standard)
    for flag, given, reason in (
        ("--dynamic", request.dynamic, "these graphs have fixed shapes; they read no padding, so a short prompt is a short prompt anyway"),
        ("--paged-blocks", bool(request.blocks), "their cache is the kernels' own"),
        ("--key-file", request.key_file is not None, "the path of the library cannot be set anew in an encrypted graph"),
    ):
        if given:
            yield ConfigError(flag, f"does not go with --operators {KERNELS}: {reason}.", fix=f"leave out {flag} or --operators.")
    if request.form and request.form not in PACKED_FORMS:
        yield ConfigError("weights", f"got {request.form!r}.", fix=f"write auto, or one of {', '.join(PACKED_FORMS)}.")
    if not request.form and (config.compute_dtype, config.param_init_dtype) != ("float32", "float32"):
        problem = f"{what} for a network of {config.compute_dtype}; the kernels take float32 networks and packed weights."
        yield ConfigError(where, problem, fix="write --dtype float32, or --weights bfloat16, int8 or int4.")


def _integer_findings(config: ModelConfig, layout: Layout, request: ExportRequest) -> Iterator[CodeLlamaError]:
    if request.form not in EXPORTED_FORMS:
        fix = f"write auto, or one of {', '.join(EXPORTED_FORMS)}; for bfloat16 say --dtype bfloat16."
        yield ConfigError("weights", f"got {request.form!r}, which is no form of exported weights.", fix=fix)
    if layout.ranks > 1:
        problem = f"got {request.form!r} on {layout.ranks} ranks, but groups of columns that share a scale are not cut over ranks."
        yield ConfigError("weights", problem, fix="write auto, or model_parallel: 1.")
    if config.compute_dtype != "float32" or config.param_init_dtype != "float32":
        yield ConfigError("weights", f"got {request.form!r} for a network of {config.compute_dtype}.", fix="write --dtype float32.")
    if config.qkv_has_bias:
        yield ConfigError("weights", f"got {request.form!r} for a network with biases, which is not built.", fix="write auto.")


def _paged_findings(config: ModelConfig, request: ExportRequest) -> Iterator[CodeLlamaError]:
    size, positions = request.block_size, config.seq_length
    if request.dynamic:
        yield ConfigError("--dynamic", "graphs of any length have no paged cache here.", fix="leave out --dynamic, or --paged-blocks.")
    if size < 1 or positions % size:
        yield ConfigError("--block-size", f"got {size}, must divide the {positions} positions of a row.", fix="write 16, or 8.")
    elif request.blocks < positions // size + 1:
        problem = (
            f"got {request.blocks}; one row of {positions} positions takes {positions // size} blocks, and one more belongs to no row."
        )
        yield ConfigError("--paged-blocks", problem, fix=f"write {request.batch_size * (positions // size) + 1} for full rows.")
