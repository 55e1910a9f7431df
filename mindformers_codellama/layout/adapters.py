"""What an adapter adds to a model: names and shapes of its parameters, and the bytes a run with one holds; without MindSpore."""

from __future__ import annotations

import math

from mindformers_codellama.config.kernels_key import fits_kernels
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.sections_pet import PetSection
from mindformers_codellama.layout.parameters import parameter_shapes

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def adapter_count(config: ModelConfig, pet: PetSection) -> int:
    """Numbers in A and B of all layers: rank times (I + O) each."""
    shapes = parameter_shapes(config)
    return sum(pet.lora_rank * sum(shapes[f"{name}.weight"]) for name in pet.modules(config.num_layers))


def adapter_memory(run: RunConfig) -> dict[str, int]:
    """Bytes of the frozen weights, of the adapter, its gradients and its optimizer states; `pet_config` must be there.

    On every rank, however many there are. Frozen matrices of the blocks are held in bfloat16 where the kernels multiply in it
    (`model.lora.add_adapter`). A compiled step that accumulates has sums of gradients beside gradients.
    """
    config, pet = run.model.config, run.model.model_config.pet_config
    assert pet is not None, "no adapter"
    by_kernels = fits_kernels(config) and run.kernels != "off" and run.context.device_target == "CPU"
    narrow = config.compute_dtype == "bfloat16" and by_kernels
    weights = 0
    for name, shape in parameter_shapes(config).items():
        in_block = name.startswith("model.layers.") and len(shape) == 2
        size = 2 if narrow and in_block else 4 if len(shape) == 1 else BYTES[config.param_init_dtype]
        weights += math.prod(shape) * size
    count = adapter_count(config, pet)
    gradients = 2 if run.runner_config.gradient_accumulation_steps > 1 and not by_kernels else 1
    return {"weights": weights, "adapter": 4 * count, "gradients": 4 * count * gradients, "optimizer": 8 * count}
