"""A model that is exported graphs: it generates as every other model does."""

from __future__ import annotations

from pathlib import Path

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import CheckpointError, GenerationError, TokenizerError
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.mindir.decoder import MindIRDecoder
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.manifest import MANIFEST, ExportManifest
from mindformers_codellama.mindir.open import Place, find_export, open_decoder, open_engine
from mindformers_codellama.pipelines.generating import CausalLM, plain_generation
from mindformers_codellama.pipelines.ranks import ONE
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.tokenizer import LlamaTokenizer


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


def open_mindir(folder: Path, place: Place, *, dynamic: bool | None = None) -> MindIRCausalLM:
    """Check the files of an export directory, load its graphs and build the model.

    Raises:
        ConfigError, CheckpointError, ClusterError, EnvironmentFault: as `mindir.open.open_engine`, the engine's `load` and
            `mindir.open.open_decoder`.
    """
    engine = open_engine(folder, place)
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


def lite_model(model: object, *, place: Place, seq_length: int | None = None, dynamic: bool | None = None) -> MindIRCausalLM:
    """What MindFormers' `pipeline(backend="mslite")` takes as a model: an export directory, or (full graph, increment graph).

    Raises:
        CheckpointError: graphs of another length than `seq_length`; else as `find_export` and `open_mindir`.
    """
    if isinstance(model, (tuple, list)):
        full, inc = (str(each) for each in (*model, "")[:2])
        folder = find_export(full=full, inc=inc, rank=place.rank_id)
    else:
        folder = find_export(model_dir=str(model), rank=place.rank_id)
    opened = open_mindir(folder, place, dynamic=dynamic)
    require_length(folder, opened.manifest, seq_length)
    return opened


def require_length(folder: Path, manifest: ExportManifest, seq_length: int | None) -> None:
    """Raise when a person names another length than the export has.

    Raises:
        CheckpointError: so it is.
    """
    if seq_length is not None and seq_length != manifest.model.seq_length:
        problem = f"its graphs have {manifest.model.seq_length} positions, not {seq_length}."
        raise CheckpointError(folder, problem, fix=f"give {manifest.model.seq_length}, or export with seq_length {seq_length}.")
