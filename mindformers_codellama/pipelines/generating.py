"""What every model that generates offers: `generate`, in MindFormers' interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import ConfigError, GenerationError
from mindformers_codellama.generation.loop import generate
from mindformers_codellama.generation.protocol import Decoder, Streamer
from mindformers_codellama.pipelines.adapters import AdapterSet
from mindformers_codellama.pipelines.logits_processors import LogitsProcessor, ProcessedDecoder
from mindformers_codellama.pipelines.ranks import Ranks
from mindformers_codellama.text.tokenizer import LlamaTokenizer


class CausalLM:
    """A model that generates, whatever holds its weights."""

    config: ModelConfig
    """Sizes of the model."""
    generation: GenerationConfig
    """Options `generate` starts from."""
    ranks: Ranks
    """The ranks that hold the model together."""

    def decoder(self, *, use_past: bool) -> Decoder:
        """The decoder over the weights; kept, because making one costs."""
        raise NotImplementedError

    def load_adapter(self, path: str | Path, name: str = "") -> str:
        """Read a low-rank adapter of PEFT's files and keep it by its name, which is given back; `set_adapter` uses it.

        Args:
            path: directory with `adapter_config.json` and `adapter_model.safetensors`.
            name: empty is the directory's own.

        Raises:
            ConfigError: a name that is taken; a model that takes no adapters.
            CheckpointError: an adapter that is damaged, of another model, or asks for what is not computed.
        """
        return self._own_adapters().load(path, name)

    def set_adapter(self, name: str | None) -> None:
        """Generate with this adapter from the next prompt on; with None exactly as without adapters.

        Raises:
            ConfigError: no adapter of this name.
        """
        self._own_adapters().use(name)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the loaded adapters."""
        return self._own_adapters().names

    @property
    def active_adapter(self) -> str | None:
        """Name of the adapter in use."""
        return self._own_adapters().active

    def _own_adapters(self) -> AdapterSet:
        fix = "merge it (codellama merge-lora) and make this model of the merged checkpoint."
        raise ConfigError("adapter", "this model's weights cannot change, so it takes none.", fix=fix)

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

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        tokenizer: LlamaTokenizer | None = None,
        suffix_first: bool | None = None,
        until: str = "block",
        heal: bool = True,
        context: Sequence[tuple[str, str]] = (),
        **options: Any,
    ) -> str:
        """What belongs between two texts.

        Args:
            prefix: text before the cursor.
            suffix: text behind it.
            tokenizer: of the model.
            suffix_first: order SPM instead of PSM; None: the model's own order, or by the cursor.
            until: `eot`: where the model ends it; `block`: also where it leaves the cursor's block or closes a bracket of the
                suffix; `line`: also at the end of its first line.
            heal: token healing, when the prefix ends inside a token.
            context: `(path, text)` of other files, the most helpful first.
            **options: generation options; `max_new_tokens` is 128 when nothing is said.

        Returns:
            The middle, with every leading space; CR LF where the texts have it.

        Raises:
            GenerationError: a model that cannot infill, with the reason and those that can; or as `generate`.
        """
        from mindformers_codellama.pipelines.infilling import InfillingPipeline  # which builds on this module
        from mindformers_codellama.text.holes import Hole

        if tokenizer is None:
            raise GenerationError("tokenizer", "infilling needs a tokenizer.", fix="pass tokenizer=AutoTokenizer.from_pretrained(...).")
        asked: dict[str, Any] = {"suffix_first": suffix_first, "until": until, "heal": heal, "context": context}
        pipe = InfillingPipeline(self, tokenizer, **asked, **options)
        return pipe.run([Hole(prefix, suffix)], pipe.infill, pipe.generation)[0][0].middle


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


def plain_generation(config: ModelConfig) -> GenerationConfig:
    """Greedy, with a cache, up to the model's length."""
    return GenerationConfig(
        max_length=config.seq_length,
        eos_token_ids=(config.eos_token_id,),
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        use_past=True,
    )
