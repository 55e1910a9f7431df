"""The loss scale rule against nn.DynamicLossScaleUpdateCell's, step by step."""

import itertools

from mindformers_codellama.train.loss_scale import LossScale


def reference(start, factor, window, overflows):
    """nn.DynamicLossScaleUpdateCell.construct written out with plain numbers."""
    scale, current, last = start, 1, 0
    for overflow in overflows:
        should_grow = window <= current - last
        after_overflow = max(scale / factor, 1.0) if overflow else scale
        last = current if overflow or should_grow else last
        scale = after_overflow * factor if should_grow and not overflow else after_overflow
        current += 1
        yield scale


def test_every_pattern_of_overflow_moves_the_scale_as_mindspore_does():
    for pattern in itertools.product([False, True], repeat=9):
        state = LossScale(value=4.0, factor=2.0, window=3)
        for overflow, expected in zip(pattern, reference(4.0, 2.0, 3, pattern), strict=True):
            state = state.after(overflow=overflow)
            assert state.value == expected


def test_the_scale_never_falls_below_one():
    state = LossScale(value=2.0, factor=2.0)
    for _ in range(5):
        state = state.after(overflow=True)
    assert state.value == 1.0


def test_a_fixed_scale_stays():
    assert LossScale(value=1024.0).after(overflow=True) == LossScale(value=1024.0)
