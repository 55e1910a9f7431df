"""Training an adapter: the model below it, what of a run it decides, and the PEFT directory that comes out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mindspore as ms
import numpy as np

from mindformers_codellama.checkpoint.adapter_config import AdapterConfig
from mindformers_codellama.checkpoint.adapter_format import LowRank, write_adapter
from mindformers_codellama.checkpoint.start import load_start
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.sections_pet import PetSection
from mindformers_codellama.errors import CheckpointError, raise_all
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.lora import add_adapter
from mindformers_codellama.model.lora_pass import Dropout
from mindformers_codellama.parallel.agreement import fail_together, gather, together
from mindformers_codellama.parallel.comm import SINGLE, Comm
from mindformers_codellama.train.resume_point import ResumePoint

FOLDER = "adapter"
"""Below `output_dir`."""


@dataclass(frozen=True)
class TrainedAdapter:
    """The adapter of a network in training."""

    pet: PetSection
    layers: dict[str, Linear]
    """Module to the layer that has the adapter."""
    base: str
    """The checkpoint the frozen weights are from."""
    facts: str
    """What a resumed run must share: settings, and a digest of the frozen weights."""

    def write(self, folder: Path) -> None:
        """Write the adapter as PEFT's files, over an older one."""
        config = AdapterConfig(rank=self.pet.lora_rank, alpha=self.pet.lora_alpha, dropout=self.pet.lora_dropout, base_model=self.base)
        weights = {
            f"{name}.weight": LowRank(layer.lora_a.asnumpy(), layer.lora_b.asnumpy(), self.pet.scale) for name, layer in self.layers.items()
        }
        write_adapter(folder, config, weights, force=True)


def base_run(run: RunConfig) -> RunConfig:
    """The run whose `start_weights` are the frozen weights: `load_checkpoint`, unless that names the adapter's run to go on with."""
    base = run.model.checkpoint_name_or_path if run.resume_training else run.start_weights
    return replace(run, load_checkpoint=base, resume_training=False)


def open_adapter(run: RunConfig, network: LlamaNetwork, comm: Comm = SINGLE) -> TrainedAdapter | None:
    """Give the network the adapter of `pet_config` and load the weights below it; None without that section.

    Every rank reads the whole model, as one process would, and begins with the same A and B.

    Args:
        run: names the model.
        network: whole.
        comm: this process among the ranks, which must all call this.

    Raises:
        CheckpointError: as `load_start`; ranks that read different models.
    """
    pet = run.model.model_config.pet_config
    if pet is None:
        return None
    layers = add_adapter(network, pet, run.seed)
    start = base_run(run)
    base = start.start_weights
    together(None if comm.is_alone else comm, lambda: load_start(network, start), doing="reading the model", slow=True)
    frozen = frozen_digest(network)
    require_same_model(comm, base, frozen)
    settings = {key: value for key, value in asdict(pet).items() if key not in ("param_init_type", "compute_dtype")}
    text = json.dumps(settings | {"modules": list(layers), "base": frozen}, sort_keys=True)
    return TrainedAdapter(pet, layers, base, text)


def require_same_model(comm: Comm, base: str, frozen: str) -> None:
    """Refuse ranks whose machines have different models at one path.

    Args:
        comm: this process among the ranks, which must all call this.
        base: the path.
        frozen: `frozen_digest` of what this rank read there.

    Raises:
        CheckpointError: so it is.
    """
    if comm.is_alone:
        return
    doing = "comparing the models"
    found = gather(comm, frozen, doing=doing)
    others = ", ".join(str(rank) for rank, digest in enumerate(found) if digest != found[0])
    problem = f"holds another model for rank {others} than for rank 0."
    fail_together(comm, CheckpointError(base, problem, fix="give every machine the same one.") if others else None, doing=doing)


def dropout_of(run: RunConfig) -> Dropout | None:
    """What the adapter of a run leaves out of its inputs."""
    pet = run.model.model_config.pet_config
    return None if pet is None else Dropout(pet.lora_dropout, run.seed)


def frozen_digest(network: LlamaNetwork) -> str:
    """A number that is another one when another model was loaded: of every norm, and of the first row of every matrix."""
    digest = hashlib.sha256()
    for parameter in network.get_parameters():
        if not parameter.requires_grad:
            row = parameter if parameter.ndim == 1 else parameter[:1]
            digest.update(np.ascontiguousarray(row.astype(ms.float32).asnumpy()).tobytes())
    return digest.hexdigest()[:32]


def restore_adapter(point: ResumePoint, parameters: ms.ParameterTuple) -> None:
    """Fill A and B from a checkpoint of the same adapter.

    Raises:
        CheckpointError: tensors that are missing or of another shape, all at once.
    """
    reader = point.reader
    fix = "resume with the stopped run's pet_config, or set resume_training: False to start anew."
    found = [
        CheckpointError(f"{reader.path}: {item.name}", "is missing: this is no checkpoint of such an adapter.", fix=fix)
        if item.name not in reader.tensors
        else CheckpointError(
            f"{reader.path}: {item.name}", f"has shape {list(reader.shape(item.name))}, this run {list(item.shape)}.", fix=fix
        )
        for item in parameters
        if reader.shapes().get(item.name) != tuple(item.shape)
    ]
    raise_all(found[:4])
    for item in parameters:
        item.set_data(ms.Tensor(reader.read(item.name).astype(np.float32)))
