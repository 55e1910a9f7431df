"""A model that is exported graphs: it generates as every other model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import CheckpointError, ConfigError, GenerationError, TokenizerError
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.mindir.decoder import MindIRDecoder
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.manifest import MANIFEST, ExportManifest, read_export_manifest
from mindformers_codellama.mindir.open import GRAPH, LITE, Place, find_export, open_decoder, open_engine
from mindformers_codellama.pipelines.generating import CausalLM, plain_generation
from mindformers_codellama.pipelines.ranks import ONE
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.tokenizer import LlamaTokenizer

ENGINE_OF: Mapping[str, str] = {"mslite": LITE, "mindir": GRAPH}
"""Backend of `pipeline` to the engine that runs exported graphs."""


class MindIRCausalLM(CausalLM):
    """Generates from exported graphs with a cache. Of several ranks each process has its own graphs and makes the same calls.

    Args:
        decoder: over a loaded engine.
        manifest: of the export.
        generation: options `generate` starts from; None is greedy, with the export's end ids.
    """

    def __init__(self, decoder: MindIRDecoder, manifest: ExportManifest, *, generation: GenerationConfig | None = None) -> None:
        self.manifest = manifest
        self.config = manifest.model
        ends = manifest.stop_token_ids or (manifest.model.eos_token_id,)
        self.generation = generation or plain_generation(manifest.model).updated(eos_token_id=ends)
        self.ranks = ONE
        self._decoder = decoder

    def decoder(self, *, use_past: bool) -> Decoder:
        """The decoder.

        Raises:
            GenerationError: without a cache, which the graphs have inside.
        """
        if not use_past:
            raise GenerationError("use_past", "exported graphs keep keys and values.", fix="leave use_past True.")
        return self._decoder


def open_mindir(
    folder: Path, place: Place, *, dynamic: bool | None = None, progress: Callable[[int], object] | None = None
) -> MindIRCausalLM:
    """Check the files of an export directory, load its graphs and build the model.

    Args:
        folder: the export directory.
        place: engine, rank and device.
        dynamic: as `mindir.open.open_decoder`.
        progress: told the bytes of every piece of a file that was compared with the manifest.

    Raises:
        ConfigError, CheckpointError, ClusterError, EnvironmentFault: as `mindir.open.open_engine`, the engine's `load` and
            `mindir.open.open_decoder`.
    """
    engine = open_engine(folder, place, progress=progress)
    decoder = open_decoder(engine, dynamic=dynamic)  # what is wrong with the options is said before the files are read
    engine.load()
    return MindIRCausalLM(decoder, engine.manifest)


def export_tokenizer(manifest: ExportManifest, given: str = "", *, name: str = "") -> LlamaTokenizer:
    """The tokenizer of an export.

    Args:
        manifest: of the export.
        given: path or registry name that a person named; empty is the one the manifest names.
        name: registry name to fall back to.

    Raises:
        TokenizerError: none is known or found, or it is not the one the graphs were exported with.
    """
    stated = manifest.tokenizer.get("path", "")
    if not given and not stated and not name:
        fix = "give --tokenizer_path FILE."
        raise TokenizerError(MANIFEST, "names no tokenizer.", fix=fix)
    words = AutoTokenizer.from_pretrained(given or (stated if stated and Path(stated).exists() else name or stated))
    wanted = manifest.tokenizer.get("sha256", "")
    if wanted and file_sha256(Path(words.path)) != wanted:
        problem = f"is not the tokenizer that the graphs were exported with ({stated})."
        raise TokenizerError(words.path, problem, fix="give that one, or export again with this one.")
    return words


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What MindFormers' `pipeline(backend="mslite")` is told beside the model."""

    model_name: str = ""
    """Registry name, whose tokenizer is taken when the export names none."""
    ge_config_path: str | Sequence[str] = ""
    """`lite.ini`, or one for each graph; of `mslite`."""
    device_id: int = 0
    rank_id: int = 0
    infer_seq_length: int | None = None
    """Positions the graphs must have; None takes what they have."""
    dynamic: bool | None = None
    """As `mindir.open.open_decoder`."""


def open_exported(
    backend: str, model: object, tokenizer: LlamaTokenizer | str | Path | None, options: Mapping[str, Any]
) -> tuple[MindIRCausalLM, LlamaTokenizer, dict[str, Any]]:
    """What `pipeline` is given, with a backend that runs exported graphs.

    Args:
        backend: a key of `ENGINE_OF`.
        model: an export directory, or (graph for prompts, graph for single tokens).
        tokenizer: of the model, its path or registry name; None is the export's own.
        options: fields of `ExportOptions`, and others.

    Returns:
        The model, its tokenizer, and the others.

    Raises:
        ConfigError, CheckpointError, TokenizerError: as `find_export`, `open_mindir`, `require_length`, `export_tokenizer`.
    """
    names = {field.name for field in fields(ExportOptions)}
    own = ExportOptions(**{name: value for name, value in options.items() if name in names})
    if isinstance(model, (tuple, list)):
        if not 1 <= len(model) <= 2:
            fix = "give an export directory, or (graph for prompts, graph for single tokens)."
            raise ConfigError("model", f"got {len(model)} files; an export has one graph or two.", fix=fix)
        full, inc = (str(each) for each in (*model, "")[:2])
        folder = find_export(full=full, inc=inc, rank=own.rank_id)
    else:
        folder = find_export(model_dir=str(model), rank=own.rank_id)
    manifest = read_export_manifest(folder)
    require_length(folder, manifest, own.infer_seq_length)
    words = tokenizer if isinstance(tokenizer, LlamaTokenizer) else export_tokenizer(manifest, str(tokenizer or ""), name=own.model_name)
    paths = own.ge_config_path if isinstance(own.ge_config_path, str) else ",".join(own.ge_config_path)
    place = Place(engine=ENGINE_OF[backend], rank_id=own.rank_id, device_id=own.device_id, config_path=paths)
    return open_mindir(folder, place, dynamic=own.dynamic), words, {name: value for name, value in options.items() if name not in names}


def require_length(folder: Path, manifest: ExportManifest, seq_length: int | None) -> None:
    """Raise when a person names another length than the export has.

    Raises:
        CheckpointError: so it is.
    """
    if seq_length is not None and seq_length != manifest.model.seq_length:
        problem = f"its graphs have {manifest.model.seq_length} positions, not {seq_length}."
        raise CheckpointError(folder, problem, fix=f"give {manifest.model.seq_length}, or export with seq_length {seq_length}.")
