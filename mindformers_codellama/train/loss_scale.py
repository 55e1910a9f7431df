"""Loss scale: a number, or one that halves on overflow and doubles after a run of good steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

MINIMUM_SCALE = 1.0
"""MindFormers' lower bound."""


@dataclass(frozen=True, kw_only=True)
class LossScale:
    """State of the loss scale after some steps; `after` gives the next one.

    The rule is nn.DynamicLossScaleUpdateCell's, counters included, so a checkpoint of MindFormers continues here.
    """

    value: float
    """Factor on the loss before the backward pass, above 0."""
    factor: float = 1.0
    """Multiplier of growth and divisor on overflow; 1 keeps the scale fixed."""
    window: int = 1000
    """Steps without overflow before the scale grows."""
    current_step: int = 1
    """MindFormers' `current_iterator_step`: steps seen plus one, skipped ones included."""
    last_change: int = 0
    """MindFormers' `last_overflow_iterator_step`: the step of the last overflow or growth."""

    @property
    def dynamic(self) -> bool:
        """Whether the scale ever moves."""
        return self.factor != 1.0

    def after(self, *, overflow: bool) -> LossScale:
        """The state once a step has, or has not, overflowed."""
        if not self.dynamic:
            return self
        grows = self.current_step - self.last_change >= self.window
        value = self.value
        if overflow:
            value = max(value / self.factor, MINIMUM_SCALE)
        elif grows:
            value = value * self.factor
        last_change = self.current_step if overflow or grows else self.last_change
        return replace(self, value=value, current_step=self.current_step + 1, last_change=last_change)
