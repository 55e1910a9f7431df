"""What a checkpoint is cut into: the parts of a layout of ours, of a strategy file, or one whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mindformers_codellama.checkpoint.boxes_io import part_of
from mindformers_codellama.checkpoint.model_source import config_from_shapes, named_config
from mindformers_codellama.checkpoint.open import CheckpointReader
from mindformers_codellama.checkpoint.report import compare, difference_errors
from mindformers_codellama.checkpoint.shard_files import is_model_tensor
from mindformers_codellama.checkpoint.shard_info import Piece, ShardInfo
from mindformers_codellama.checkpoint.sharded_checks import few
from mindformers_codellama.checkpoint.tensors import LazyTensor, tensor_bytes
from mindformers_codellama.checkpoint.weight_map import Sizes, is_training_state, to_theirs
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, ConfigError, raise_all
from mindformers_codellama.layout.boxes import Box
from mindformers_codellama.layout.cuts import ModelLayout, OptimizerCut, run_layout, run_model_layout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.layout.strategy import StrategyLayouts

HEADS_UNKNOWN = "the number of heads is not known, so that a cut through a head would not be seen; give --config to have it checked."


@dataclass(frozen=True)
class Target:
    """Where every tensor goes; with neither a layout nor a strategy it is one whole checkpoint."""

    model_layout: ModelLayout | None = None
    strategy: StrategyLayouts | None = None
    notes: tuple[str, ...] = ()
    """Worth knowing, but nothing is wrong."""

    @property
    def layout(self) -> Layout:
        """The degrees."""
        if self.model_layout is not None:
            return self.model_layout.layout
        return self.strategy.layout if self.strategy is not None else Layout()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut."""
        return self.model_layout is None and self.strategy is None

    def box(self, name: str, shape: tuple[int, ...], rank: int) -> Box | None:
        """What a rank gets of a weight or moment; None when another stage has it.

        Raises:
            CheckpointError: a tensor the strategy does not have, or cannot cut.
        """
        if self.model_layout is not None:
            return self.model_layout.box(name, rank)
        assert self.strategy is not None
        return self.strategy.box(name, shape, rank)

    def parts(self, tensors: Mapping[str, LazyTensor], rank: int) -> dict[str, LazyTensor]:
        """What a rank's file holds, in the order of `tensors`: its parts, and all that is no weight or moment."""
        found: dict[str, LazyTensor] = {}
        for name, tensor in tensors.items():
            if self.is_whole or not is_model_tensor(name):
                found[name] = tensor
            elif (box := self.box(name, tensor.shape, rank)) is not None:
                found[name] = part_of(tensor, box)
        return found

    def info(self, tensors: Mapping[str, LazyTensor], rank: int, save: str) -> ShardInfo:
        """What a rank's file says about itself."""
        pieces: dict[str, Piece] = {}
        for name, tensor in tensors.items():
            if is_model_tensor(name) and (box := self.box(name, tensor.shape, rank)) is not None:
                pieces[name] = Piece(tensor.shape, box)
        return ShardInfo(layout=self.layout, rank=rank, pieces=pieces, save=save)

    def sizes(self, tensors: Mapping[str, LazyTensor]) -> Iterator[int]:
        """Bytes of tensors in the file of each rank."""
        for rank in range(self.layout.ranks):
            yield sum(tensor_bytes(part) for part in self.parts(tensors, rank).values())

    def check(self, reader: CheckpointReader) -> None:
        """Refuse a checkpoint that is of another model than the layout or the strategy.

        Raises:
            CheckpointError: every missing, unexpected and mis-shaped tensor at once.
        """
        shapes = reader.shapes()
        weights = {name: shape for name, shape in shapes.items() if not is_training_state(name)}
        problems: list[CodeLlamaError] = []
        if self.model_layout is not None:
            needed = self.model_layout.shapes
            raise_all(difference_errors(reader.path, compare(weights, needed), weights, needed))
            moments = {name: shape for name, shape in shapes.items() if is_model_tensor(name) and name not in weights}
            wrong = [name for name, shape in moments.items() if needed.get(name.split(".", 1)[1]) != shape]
            problems = [
                CheckpointError(f"{reader.path}: {name}", "is no moment of a weight of this model, or of another shape.") for name in wrong
            ]
        elif self.strategy is not None:
            for name, shape in shapes.items():
                try:
                    if is_model_tensor(name):
                        self.strategy.box(name, shape, 0)
                except CodeLlamaError as error:
                    problems.append(error)
            fix = "give the strategy of this model."
            absent = [name for name in self.strategy.tensors if to_theirs(name) and name not in shapes]
            problem = f"is in the strategy {self.strategy.where}, but not in the checkpoint."
            problems += [CheckpointError(f"{reader.path}: {name}", problem, fix=fix) for name in absent]
        raise_all(few(problems))


def layout_target(
    reader: CheckpointReader,
    layout: Layout | None,
    config: str | None,
    *,
    cut_vocabulary: bool = False,
    optimizer_cut: OptimizerCut | None = None,
) -> Target:
    """A layout of ours.

    Args:
        reader: what is cut; says the model when `config` does not.
        layout: degrees; None takes those of `config`.
        config: a YAML file (which also says how vocabulary, optimizer states and layers are cut), a Hugging Face
            `config.json` or a model name; None finds the model by the checkpoint.
        cut_vocabulary: without a YAML file: cut embedding and head along the model axis; a pipeline always does.
        optimizer_cut: without a YAML file: the parallel optimizer.

    Raises:
        ConfigError: no degrees; degrees that do not divide heads, channels or layers.
        CheckpointError: not a Llama checkpoint.
    """
    notes: tuple[str, ...] = ()
    if config is not None and Path(config).suffix in (".yaml", ".yml"):
        run = read_run(config)
        made = run_model_layout(run, layout or run_layout(run))
    else:
        if layout is None:
            fix = "write data x model x stage degrees, such as 1x2x1, or give a YAML file with --config."
            raise ConfigError("--layout", "is missing.", fix=fix)
        model, notes = _model(reader, config)
        cut = cut_vocabulary or layout.pipeline_stage > 1
        made = ModelLayout(config=model, layout=layout, vocabulary_cut=cut, optimizer_cut=optimizer_cut)
    raise_all(_degree_errors(made))
    return Target(model_layout=made, notes=notes)


def parse_layout(text: str) -> Layout:
    """`2x2x1` or `2,2,1`: data, model and stage degrees.

    Raises:
        ConfigError: anything else.
    """
    words = text.lower().replace(",", "x").split("x")
    if len(words) != 3 or not all(word.strip().isdigit() and int(word) for word in words):
        raise ConfigError("--layout", f"got {text!r}.", fix="write data x model x stage degrees, such as 2x4x1.")
    data, model, stage = map(int, words)
    return Layout(data_parallel=data, model_parallel=model, pipeline_stage=stage)


def _model(reader: CheckpointReader, config: str | None) -> tuple[ModelConfig, tuple[str, ...]]:
    """The model, and a note when only its shapes are known."""
    if config is not None:
        return named_config(config), ()
    if reader.config is not None:
        return reader.config, ()
    shapes = {name: shape for name, shape in reader.shapes().items() if not is_training_state(name)}
    try:
        return config_from_shapes(reader.path, shapes), ()
    except CheckpointError:
        sizes = Sizes.found_in(shapes)
    if sizes is None or sizes.query_rows != sizes.hidden or sizes.query_rows % sizes.kv_rows or sizes.kv_rows % 2:
        some = ", ".join(list(shapes)[:3]) or "no tensor"
        raise CheckpointError(reader.path, f"is not a whole Llama checkpoint; it holds {some}.", fix="give --config if it is one.")
    made = ModelConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        num_layers=sizes.layers,
        num_heads=sizes.query_rows // 2,
        num_kv_heads=sizes.kv_rows // 2,
        intermediate_size=sizes.intermediate,
        qkv_has_bias=sizes.qkv_has_bias,
    )
    return made, (HEADS_UNKNOWN,)


def _degree_errors(made: ModelLayout) -> list[CodeLlamaError]:
    config, layout = made.config, made.layout
    model, stages = layout.model_parallel, layout.pipeline_stage
    found: list[CodeLlamaError] = []
    shared = {"n_kv_heads": config.num_kv_heads, "num_heads": config.num_heads, "intermediate_size": config.intermediate_size}
    possible = [str(n) for n in range(1, config.num_kv_heads + 1) if not any(size % n for size in shared.values())]
    wrong = ", ".join(f"{key} ({size})" for key, size in shared.items() if size % model)
    if wrong:
        problem = f"{layout}: model_parallel {model} does not divide {wrong}."
        found.append(ConfigError("--layout", problem, fix=f"take one of {', '.join(possible[:12])}."))
    if stages > config.num_layers:
        found.append(ConfigError("--layout", f"{layout}: {stages} stages for {config.num_layers} layers.", fix="take fewer stages."))
    return found
