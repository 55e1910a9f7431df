"""Sections about one update of the weights: optimizer, learning rate, loss scale, recompute."""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.config.fields import check_fields, key

LR_TYPES = (
    "ConstantWarmUpLR",
    "LinearWithWarmUpLR",
    "CosineWithWarmUpLR",
    "CosineWithRestartsAndWarmUpLR",
    "PolynomialWithWarmUpLR",
)


@dataclass(frozen=True, kw_only=True)
class OptimizerSection:
    """`optimizer`: Adam with decoupled weight decay, moments in float32."""

    type: str = key("FP32StateAdamWeightDecay", choices=("FP32StateAdamWeightDecay", "AdamW"))
    """`FP32StateAdamWeightDecay` has no bias correction, `AdamW` has it."""
    learning_rate: float | None = key(None, low=0)
    """Used when `lr_schedule` gives none."""
    beta1: float = key(0.9, low=0, high=1)
    """Decay of the mean of gradients. `betas: [b1, b2]` is read as well."""
    beta2: float = key(0.999, low=0, high=1)
    """Decay of the mean of squared gradients."""
    eps: float = key(1e-6, above=0)
    """Added to the root of the second moment."""
    weight_decay: float = key(0.0, low=0)
    """Share of a weight taken off per unit of learning rate; biases and norms are never decayed."""

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")


@dataclass(frozen=True, kw_only=True)
class LrScheduleSection:
    """`lr_schedule`: learning rate as a pure function of the step."""

    type: str = key("ConstantWarmUpLR", choices=LR_TYPES)
    """Shape of the curve after the warm-up. Without this section the rate is constant."""
    learning_rate: float = key(1e-3, low=0)
    """Highest learning rate, reached at the end of the warm-up."""
    lr_end: float | None = key(None, low=0)
    """Learning rate at `total_steps`; None is 0, and 1e-7 for PolynomialWithWarmUpLR."""
    warmup_lr_init: float = key(0.0, low=0)
    """Learning rate of step 0 when there is a warm-up."""
    warmup_steps: int = key(0, low=0)
    """Steps of the warm-up when neither `warmup_ratio` nor `warmup_epochs` is given."""
    warmup_epochs: int | None = key(None, low=0)
    """Epochs of the warm-up; wins over `warmup_steps`."""
    warmup_ratio: float | None = key(None, low=0, high=1)
    """Share of `total_steps` that is warm-up; wins over `warmup_epochs` and `warmup_steps`."""
    total_steps: int = key(-1, low=1, also=(-1,))
    """Step at which `lr_end` is reached; -1 is the last step of the run."""
    num_cycles: float | None = key(None, above=0)
    """Waves of the cosine; None is 0.5, and 1 for CosineWithRestartsAndWarmUpLR."""
    power: float = key(1.0, above=0)
    """Exponent of PolynomialWithWarmUpLR."""

    def __post_init__(self) -> None:
        check_fields(self, "lr_schedule")


@dataclass(frozen=True, kw_only=True)
class DynamicLossScale:
    """`runner_wrapper.scale_sense` as a section: a loss scale that follows overflow."""

    loss_scale_value: float = key(65536.0, above=0)
    """Scale of the first step."""
    scale_factor: float = key(2.0, above=1)
    """The scale is multiplied by this after `scale_window` good steps, divided by it on overflow."""
    scale_window: int = key(1000, low=1)
    """Good steps in a row before the scale grows."""

    def __post_init__(self) -> None:
        check_fields(self, "runner_wrapper.scale_sense")


@dataclass(frozen=True, kw_only=True)
class RunnerWrapperSection:
    """`runner_wrapper`: what happens between the gradients and the optimizer."""

    type: str = key("MFTrainOneStepCell", choices=("MFTrainOneStepCell", "MFPipelineWithLossScaleCell"))
    """Both names mean the one training step; accumulation and stages follow from their own keys."""
    scale_sense: float | DynamicLossScale = key(1.0, above=0)
    """Loss scale: a number, or a section of type DynamicLossScaleUpdateCell or FixedLossScaleUpdateCell. float32 runs need none."""
    use_clip_grad: bool = False
    """Scale gradients down so that their global norm is at most `max_grad_norm`."""
    max_grad_norm: float = key(1.0, above=0)
    """Bound of the global norm."""

    def __post_init__(self) -> None:
        check_fields(self, "runner_wrapper")


@dataclass(frozen=True, kw_only=True)
class RecomputeConfigSection:
    """`recompute_config`: trade time for memory in the backward pass."""

    recompute: bool = False
    """Compute each decoder block again in the backward pass and keep only its input. Saves no memory on the CPU (docs/training.md)."""
    select_recompute: bool = False
    """Compute only cheap parts again; False is the one value we have, `recompute` covers whole blocks."""
    parallel_optimizer_comm_recompute: bool = False
    """Gather sharded weights again in the backward pass; matters with several ranks only."""
    mp_comm_recompute: bool = True
    """Repeat the communication of model parallelism too; matters with several ranks only."""
    recompute_slice_activation: bool = False
    """Keep the block inputs cut over ranks; matters with several ranks only."""
