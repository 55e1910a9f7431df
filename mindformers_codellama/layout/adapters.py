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

    Frozen matrices of the blocks are held in bfloat16 where the kernels multiply in it (`model.lora.add_adapter`).
    """
    config, pet = run.model.config, run.model.model_config.pet_config
    assert pet is not None, "no adapter"
    narrow = config.compute_dtype == "bfloat16" and fits_kernels(config) and run.kernels != "off" and run.context.device_target == "CPU"
    weights = 0
    for name, shape in parameter_shapes(config).items():
        in_block = name.startswith("model.layers.") and len(shape) == 2
        size = 2 if narrow and in_block else 4 if len(shape) == 1 else BYTES[config.param_init_dtype]
        weights += math.prod(shape) * size
    count = adapter_count(config, pet)
    return {"weights": weights, "adapter": 4 * count, "gradients": 4 * count, "optimizer": 8 * count}
