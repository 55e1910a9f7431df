"""`LlamaForCausalLM`: a network with weights that generates, in MindFormers' interface."""

from __future__ import annotations

import logging
from pathlib import Path

from mindformers_codellama.backends.fused_decoder import FusedDecoder
from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder
from mindformers_codellama.checkpoint.hf_config import end_token_ids
from mindformers_codellama.checkpoint.load import load_from
from mindformers_codellama.checkpoint.open import CheckpointReader
from mindformers_codellama.checkpoint.packed_open import checkpoint_config
from mindformers_codellama.checkpoint.source import Source
from mindformers_codellama.checkpoint.start import load_weights
from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.kernels_key import FLOAT32_TYPES
from mindformers_codellama.config.mindformers_api import LlamaConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import read_run
from mindformers_codellama.demo import shipped_model
from mindformers_codellama.errors import CheckpointError, ConfigError, raise_all
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.kernels.choose import kernels_in_use
from mindformers_codellama.layout.cuts import run_layout
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.part import WHOLE
from mindformers_codellama.parallel.agreement import together
from mindformers_codellama.pipelines.adapters import Adapters, AdapterSet
from mindformers_codellama.pipelines.generating import CausalLM, plain_generation, strip_pads, token_rows
from mindformers_codellama.pipelines.ranks import ONE, Ranks, join_ranks, ranks_of
from mindformers_codellama.runtime.context import current_device
from mindformers_codellama.runtime.dtypes import dtype_findings

__all__ = ["LlamaForCausalLM", "strip_pads", "token_rows"]

logger = logging.getLogger(__name__)


class LlamaForCausalLM(CausalLM, LlamaNetwork):
    """Llama with its output head. Parameter names are MindFormers', so `ms.load_param_into_net` takes its files.

    Args:
        config: a `ModelConfig`, or MindFormers' `LlamaConfig`, which also brings generation options and
            `checkpoint_name_or_path`.
        checkpoint: weights to load: a file or a directory, a Hugging Face one included; or an opened checkpoint (on one
            rank). Empty takes the configuration's, and without one the weights are random.
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
        checkpoint: str | Path | CheckpointReader = "",
        generation: GenerationConfig | None = None,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        if isinstance(config, LlamaConfig):
            ranks = ranks or ranks_of(config)
            checkpoint = checkpoint or config.to_dict()["checkpoint_name_or_path"] or ""
            generation = generation or config.generation_config()
            config = config.model_config()
        raise_all(dtype_findings(config, current_device(), kernels=kernels_in_use() is not None))
        self.ranks = ranks = ranks or ONE
        super().__init__(config, ranks.part)
        self.generation = generation or plain_generation(config)
        self._decoders: dict[bool, Decoder] = {}
        self.adapter_set: AdapterSet | None = None
        """What takes its adapters; made when it is first needed."""
        if isinstance(checkpoint, CheckpointReader):
            load_from(self, Source(checkpoint))
            return
        if not str(checkpoint):
            init_parameters(self, seed, model_layout=ranks.model_layout, rank=ranks.comm.rank)
            return
        path = together(ranks.agreement, lambda: existing(checkpoint), doing="loading weights")
        load_weights(self, path, comm=ranks.agreement, model_layout=ranks.model_layout, strategy=ranks.strategy)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, generation: GenerationConfig | None = None, weights: str = "auto", adapter: str | Path = ""
    ) -> CausalLM:
        """A model with its weights.

        Args:
            name_or_path: a Hugging Face directory; one of our
                checkpoints that says its sizes; a directory of `codellama quantize`; a YAML file that names its weights; or a
                directory with one YAML file and a checkpoint.
            generation: options `generate` starts from, instead of the YAML file's.
            weights: form the weights are held in: `float32`, `bfloat16`, `int8`, `int4`; `auto` is the file's own for packed
                weights, else a network of the configuration's types (and what a YAML file says wins over `auto`).
            adapter: directory of a low-rank adapter to use, in PEFT's files. A network keeps it beside its weights
                (`set_adapter(None)` takes it out); into weights packed here it is merged first, and stays.

        Returns:
            A network of this class, or with packed weights a model that generates and nothing else.

        Raises:
            ConfigError, CheckpointError: nothing there, or what is wrong with it.
        """
        from mindformers_codellama.pipelines.weight_form import open_causal_lm  # which builds on this module

        adapters = [("", str(adapter))] if str(adapter) else []
        path = Path(name_or_path).expanduser()
        yaml_files = [] if (path / "config.json").is_file() or not path.is_dir() else sorted(path.glob("*.y*ml"))
        if path.suffix.lower() in (".yaml", ".yml") or len(yaml_files) == 1:
            run = read_run(yaml_files[0] if yaml_files else path)
            checkpoint = str(path) if yaml_files else run.start_weights
            if not checkpoint:
                fix = "set load_checkpoint, or use LlamaForCausalLM(config) for random ones."
                raise CheckpointError(path, "names no weights.", fix=fix)
            cut = not run.parallel_config.vocab_emb_dp
            ranks = join_ranks(run.model.config, run_layout(run), vocabulary_cut=cut, strategy=run.src_strategy_path_or_dir)
            form, generation = run.weights if weights == "auto" else weights, generation or run.model.generation
            return open_causal_lm(run.model.config, checkpoint, form=form, generation=generation, ranks=ranks, adapters=adapters)
        path = existing(path)
        config = checkpoint_config(path)
        if config is None:
            fix = "put the model's YAML file beside it, or build LlamaForCausalLM(config, checkpoint=...)."
            raise ConfigError(path, "does not say the sizes of its model.", fix=fix)
        ends = end_token_ids(path if path.is_dir() else path.parent) or (config.eos_token_id,)
        generation = generation or plain_generation(config).updated(eos_token_id=ends)
        shipped = shipped_model(str(name_or_path))
        if shipped and shipped[1] and path == shipped[0]:
            adapters.append(("", str(shipped[1])))
        return open_causal_lm(config, path, form=weights, generation=generation, adapters=adapters)

    def decoder(self, *, use_past: bool) -> Decoder:
        """The decoder over these weights; kept, because its graphs are compiled once."""
        if use_past not in self._decoders:
            reason = self._plain_because(use_past)
            if reason:
                self._require_plain(reason)
                logger.info("decoding with plain MindSpore operators: %s", reason)
            else:
                logger.info("decoding with the network kernel, level %s, weights float32", kernels_in_use())
            self._decoders[use_past] = MindSporeDecoder(self, use_past=use_past) if reason else FusedDecoder(self)
        return self._decoders[use_past]

    def _own_adapters(self) -> AdapterSet:
        if self.adapter_set is None:
            if self.ranks is not ONE and not self.ranks.comm.is_alone:
                problem = f"the model is cut over {self.ranks.comm.layout.ranks} ranks, and adapters are not."
                raise ConfigError("adapter", problem, fix="merge it (codellama merge-lora) and load the merged model.")
            self.adapter_set = Adapters(dict(self.parameters_and_names()))
        return self.adapter_set

    def _plain_because(self, use_past: bool) -> str:
        """Why the network kernel is not used; empty when it is. With products in bfloat16 it computes in float32, which is nearer."""
        if current_device() != "CPU":
            return f"the device is {current_device()}"
        if self.part != WHOLE:
            return "the model is cut over ranks"
        if not use_past:
            return "use_past is False"
        types = {name: getattr(self.config, key) for key, name in FLOAT32_TYPES.items()}
        others = [f"{name} is {dtype}" for name, dtype in types.items() if dtype != "float32"]
        if self.config.compute_dtype == "float16":
            others.append("compute_dtype is float16")
        if others:
            return f"{', '.join(others)}; the kernel takes float32 networks and packed weights (--weights)"
        return "" if kernels_in_use() else "kernels are off or cannot be used"

    def _require_plain(self, reason: str) -> None:
        """Refuse types that MindSpore's own operators do not compute with; `reason`: why the network kernel does not."""
        if dtype_findings(self.config, current_device()):
            problem = f"bfloat16 is computed with by the kernels alone on a CPU, and they do not generate here: {reason}."
            fix = "write use_past: True (--use-past), or compute_dtype: float32 (--dtype float32)."
            raise ConfigError("model.model_config.compute_dtype", problem, fix=fix)


def existing(checkpoint: str | Path) -> Path:
    """The path, or the folder of a model that is shipped; the name of another one is refused."""
    path = Path(checkpoint).expanduser()
    if not path.exists() and (shipped := shipped_model(str(checkpoint))):
        return shipped[0]
    if not path.exists() and str(checkpoint) in FAMILIES:
        fix = "download it (Hugging Face or Meta) and give the path of its directory; no conversion is needed."
        raise CheckpointError(str(checkpoint), "is the name of a model; its weights are not shipped.", fix=fix)
    return path
