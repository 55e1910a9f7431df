"""`LlamaForCausalLM`: a network with weights that generates, in MindFormers' interface."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder
from mindformers_codellama.checkpoint.hf_config import end_token_ids
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.start import load_weights
from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.mindformers_api import LlamaConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import CheckpointError, ConfigError, GenerationError, raise_all
from mindformers_codellama.generation.loop import generate
from mindformers_codellama.generation.protocol import Decoder, Streamer
from mindformers_codellama.layout.cuts import run_layout
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.parallel.agreement import together
from mindformers_codellama.pipelines.logits_processors import LogitsProcessor, ProcessedDecoder
from mindformers_codellama.pipelines.ranks import ONE, Ranks, join_ranks, ranks_of
from mindformers_codellama.runtime.context import current_device
from mindformers_codellama.runtime.dtypes import dtype_findings
from mindformers_codellama.text.tokenizer import LlamaTokenizer

logger = logging.getLogger(__name__)


class LlamaForCausalLM(LlamaNetwork):
    """Llama with its output head. Parameter names are MindFormers', so `ms.load_param_into_net` takes its files.

    Args:
        config: a `ModelConfig`, or MindFormers' `LlamaConfig`, which also brings generation options and
            `checkpoint_name_or_path`.
        checkpoint: weights to load: a file or a directory, a Hugging Face one included. Empty takes the
            configuration's, and without one the weights are random.
        generation: options `generate` starts from; None takes the configuration's.
        seed: of random weights.
        ranks: the ranks that hold the model together, each its part; all of them then make the same calls. None takes
            the degrees of a `LlamaConfig` when `init_context` joined a job, else this process has all of it.

    Raises:
        ConfigError: a type this device cannot compute with, or a wrong configuration.
        CheckpointError: weights that are missing, damaged or of another model.
        ClusterError: degrees that are not those of the job.
    """

    def __init__(
        self,
        config: ModelConfig | LlamaConfig,
        *,
        checkpoint: str | Path = "",
        generation: GenerationConfig | None = None,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        if isinstance(config, LlamaConfig):
            ranks = ranks or ranks_of(config)
            checkpoint = checkpoint or config.to_dict()["checkpoint_name_or_path"] or ""
            generation = generation or config.generation_config()
            config = config.model_config()
        raise_all(dtype_findings(config, current_device()))
        self.ranks = ranks = ranks or ONE
        super().__init__(config, ranks.part)
        self.generation = generation or _plain_generation(config)
        self._decoders: dict[bool, MindSporeDecoder] = {}
        if not str(checkpoint):
            init_parameters(self, seed, model_layout=ranks.model_layout, rank=ranks.comm.rank)
            return
        path = together(ranks.agreement, lambda: _existing(checkpoint), doing="loading weights")
        load_weights(self, path, comm=ranks.agreement, model_layout=ranks.model_layout, strategy=ranks.strategy)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, generation: GenerationConfig | None = None) -> LlamaForCausalLM:
        """A model with its weights.

        Args:
            name_or_path: a Hugging Face directory; one of our checkpoints that says its sizes; a YAML file that names
                its weights; or a directory with one YAML file and a checkpoint.
            generation: options `generate` starts from, instead of the YAML file's.

        Raises:
            ConfigError, CheckpointError: nothing there, or what is wrong with it.
        """
        path = Path(name_or_path).expanduser()
        yaml_files = sorted(path.glob("*.y*ml")) if path.is_dir() and not (path / "config.json").is_file() else []
        if path.suffix.lower() in (".yaml", ".yml") or len(yaml_files) == 1:
            run = read_run(yaml_files[0] if yaml_files else path)
            weights = str(path) if yaml_files else run.start_weights
            if not weights:
                raise CheckpointError(
                    path, "names no weights.", fix="set load_checkpoint, or use LlamaForCausalLM(config) for random ones."
                )
            cut = not run.parallel_config.vocab_emb_dp
            ranks = join_ranks(run.model.config, run_layout(run), vocabulary_cut=cut, strategy=run.src_strategy_path_or_dir)
            return cls(run.model.config, checkpoint=weights, generation=generation or run.model.generation, ranks=ranks)
        config = open_checkpoint(_existing(path)).config
        if config is None:
            fix = "put the model's YAML file beside it, or build LlamaForCausalLM(config, checkpoint=...)."
            raise ConfigError(path, "does not say the sizes of its model.", fix=fix)
        ends = end_token_ids(path if path.is_dir() else path.parent) or (config.eos_token_id,)
        return cls(config, checkpoint=path, generation=generation or _plain_generation(config).updated(eos_token_id=ends))

    def decoder(self, *, use_past: bool) -> MindSporeDecoder:
        """The decoder over these weights; kept, because its graphs are compiled once."""
        if use_past not in self._decoders:
            self._decoders[use_past] = MindSporeDecoder(self, use_past=use_past)
        return self._decoders[use_past]

    def generate(
        self,
        input_ids: Any,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
        streamer: Streamer | None = None,
        seed: int | None = None,
        tokenizer: LlamaTokenizer | None = None,
        **options: Any,
    ) -> list[NDArray[np.int32]]:
        """Answer prompts of token ids.

        Args:
            input_ids: one row of ids, or several of any lengths: lists, a 1-D or 2-D array or tensor. Padding
                at either end is left out: a row ends at its last id that is not the pad id.
            generation_config: options instead of the model's own.
            logits_processor: called with `(input_ids (1, T), logits (1, V))` of each row before a token is
                chosen; gives the logits to use.
            streamer: hears prompt and new ids.
            seed: of drawing; None is the configuration's, else 0, as in MindFormers.
            tokenizer: needed for `stop` (texts before which an answer ends).
            **options: single options over these, in our names or MindFormers' (`max_length`, `do_sample`, ...).

        Returns:
            One int32 array per row: prompt and new ids, the end id included.

        Raises:
            GenerationError: no room for an answer, an unknown option or one out of range.
            TokenizerError: an id outside the vocabulary.
        """
        base = self.generation
        if isinstance(generation_config, GenerationConfig):
            base = generation_config
        elif generation_config is not None:
            base = base.updated(**generation_config)
        config = base.updated(**(options if seed is None else {**options, "seed": seed}))
        prompts = [strip_pads(row, config.pad_token_id, config.bos_token_id) for row in token_rows(input_ids)]
        decoder: Decoder = self.decoder(use_past=config.use_past)
        if logits_processor is not None:
            processors = [logits_processor] if callable(logits_processor) else list(logits_processor)
            decoder = ProcessedDecoder(decoder, processors)
        return generate(decoder, prompts, config, streamer=streamer, tokenizer=tokenizer)


def token_rows(input_ids: Any) -> list[NDArray[np.int64]]:
    """Rows of ids from one row or several: lists, arrays or tensors.

    Raises:
        GenerationError: something that is not whole numbers in rows.
    """
    if isinstance(input_ids, ms.Tensor):
        input_ids = input_ids.asnumpy()
    if not isinstance(input_ids, (Sequence, np.ndarray)) or (isinstance(input_ids, np.ndarray) and not input_ids.ndim):
        problem = f"must be rows of token ids, got {type(input_ids).__name__}."
        raise GenerationError("input_ids", problem, fix="give lists of token ids, from tokenizer(text)['input_ids'].")
    rows = [input_ids] if len(input_ids) and np.ndim(input_ids[0]) == 0 else input_ids
    arrays = [np.asarray(row.asnumpy() if isinstance(row, ms.Tensor) else row) for row in rows]
    for number, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            problem = f"must be a row of whole numbers, got {array.dtype} of shape {array.shape}."
            raise GenerationError(f"prompt {number}", problem, fix="give lists of token ids, from tokenizer(text)['input_ids'].")
    return [array.astype(np.int64) for array in arrays]


def strip_pads(row: NDArray[np.int64], pad_token_id: int, bos_token_id: int) -> list[int]:
    """The row from its first to its last id that is not the pad id; a pad id that is also the begin id stays in front."""
    kept = np.flatnonzero(row != pad_token_id)
    if not kept.size:
        return []
    first = 0 if pad_token_id == bos_token_id else int(kept[0])
    return [int(token) for token in row[first : int(kept[-1]) + 1]]


def _plain_generation(config: ModelConfig) -> GenerationConfig:
    """Greedy, with a cache, up to the model's length."""
    return GenerationConfig(
        max_length=config.seq_length,
        eos_token_ids=(config.eos_token_id,),
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        use_past=True,
    )


def _existing(checkpoint: str | Path) -> Path:
    """The path, unless it is only the name of a model, whose weights nobody ships."""
    path = Path(checkpoint).expanduser()
    if not path.exists() and str(checkpoint) in FAMILIES:
        fix = "download it (Hugging Face or Meta) and give the path of its directory; no conversion is needed."
        raise CheckpointError(str(checkpoint), "is the name of a model; its weights are not shipped.", fix=fix)
    return path
