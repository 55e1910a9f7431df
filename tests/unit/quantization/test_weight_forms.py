"""Formulas and layouts of weight forms, each against its definition written out once more."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mindformers_codellama.errors import CheckpointError, ConfigError
from mindformers_codellama.quantization import packing
from mindformers_codellama.quantization.formats import LIMITS, bits_per_weight, check_form, padded_columns
from mindformers_codellama.quantization.quantize import (
    dequantize,
    pack_weights,
    quantize,
    round_up_to_bfloat16,
    unpack_weights,
    weight_error,
)

FORM = st.sampled_from(sorted(LIMITS))
GROUP = st.sampled_from([64, 128])
FINITE = st.floats(-(2.0**127), 2.0**127, width=32)
MATRIX = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=140), elements=FINITE, fill=st.just(0.0))
QUICK = settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
"""Making matrices smaller after a failure takes minutes and says little."""


@QUICK
@given(MATRIX, FORM, GROUP)
def test_every_weight_is_within_half_a_scale(weights, form, group):
    values, scales = quantize(weights, form, group)
    restored = dequantize(values, scales, weights.shape[1]).astype(np.float64)
    half = np.repeat(scales.astype(np.float64), group, axis=1)[:, : weights.shape[1]] / 2
    # the quotient is rounded to float32 before it is rounded to an integer: 2^-24 of at most 127 scales; a scale among the
    # subnormal numbers is amax / limit within 2^-150, which counts up to 127 times
    assert (np.abs(restored - weights) <= half * (1 + 254 * 2.0**-24) + 127 * 2.0**-150).all()
    assert np.abs(values).max(initial=0) <= LIMITS[form]


@QUICK
@given(MATRIX, FORM, GROUP)
def test_a_scale_is_the_smallest_bfloat16_that_reaches_the_largest_weight(weights, form, group):
    values, scales = quantize(weights, form, group)
    padded = np.zeros(values.shape, np.float32)
    padded[:, : weights.shape[1]] = weights
    wanted = np.abs(padded.reshape(*scales.shape, group)).max(-1) / np.float32(LIMITS[form])
    assert (scales.astype(np.float32) >= wanted).all()
    below = np.where(wanted > 0, scales.view(np.uint16) - np.uint16(1), 0).astype(np.uint16).view(scales.dtype)
    assert (below.astype(np.float32) < wanted)[wanted > 0].all()
    assert (scales.view(np.uint16)[wanted == 0] == 0).all()
    assert (values.reshape(*scales.shape, group)[wanted == 0] == 0).all()


@QUICK
@given(MATRIX, FORM, GROUP)
def test_packing_and_unpacking_gives_the_same_integers(weights, form, group):
    values, scales = quantize(weights, form, group)
    pack, unpack = (packing.pack_int8, packing.unpack_int8) if form == "int8" else (packing.pack_int4, packing.unpack_int4)
    packed = pack(values)
    assert packed.shape == packing.packed_shape(*weights.shape, form, group)
    np.testing.assert_array_equal(unpack(packed, len(values)), values)
    np.testing.assert_array_equal(packing.unpack_scales(packing.pack_scales(scales), len(values)), scales)
    assert packing.pack_scales(scales).shape == packing.scales_shape(*weights.shape, group)


def test_restored_int4_are_a_fixed_point():
    """The largest of a group is always 7: rounding the scale up by 2^-7 at most leaves it above 6.5. An int8 may be 126."""
    weights = np.random.default_rng(0).standard_normal((20, 200)).astype(np.float32)
    once = unpack_weights(pack_weights(weights, "int4", 64))
    np.testing.assert_array_equal(unpack_weights(pack_weights(once, "int4", 64)), once)


def numbered(rows, columns, limit):
    return (np.arange(rows * columns).reshape(rows, columns) * 7 % (2 * limit + 1) - limit).astype(np.int8)


def test_place_of_every_int8():
    values = numbered(37, 128, 127)
    packed = packing.pack_int8(values)
    for row, column in np.ndindex(values.shape):
        assert packed[row // 16, column // 4, row % 16, column % 4] == int(values[row, column]) + 128
    assert (packed[2, :, 5:] == 128).all(), "missing rows are zeros"


def test_place_and_nibble_of_every_int4():
    values = numbered(21, 64, 7)
    packed = packing.pack_int4(values)
    for row, column in np.ndindex(values.shape):
        byte = int(packed[row // 16, column // 8, row % 16, column % 4])
        nibble = byte & 15 if column % 8 < 4 else byte >> 4
        assert nibble == int(values[row, column]) + 8
    assert (packed[1, :, 5:] == 0x88).all(), "missing rows are zeros"


def test_place_of_every_bfloat16_and_scale():
    values = np.arange(18 * 5).reshape(18, 5).astype(ml_dtypes.bfloat16)
    packed = packing.pack_bfloat16(values)
    scales = packing.pack_scales(values)
    for row, column in np.ndindex(values.shape):
        assert packed[row // 16, column // 2, row % 16, column % 2] == values[row, column]
        assert scales[row // 16, column, row % 16] == values[row, column]
    assert packed.shape == packing.packed_shape(18, 5, "bfloat16", 0) == (2, 3, 16, 2)
    assert not packed[:, 2, :, 1].any(), "the missing column is zero"
    np.testing.assert_array_equal(packing.unpack_bfloat16(packed, 18, 5), values)


@pytest.mark.parametrize(("value", "bits"), [(1.0, 0x3F80), (1.0 + 2.0**-23, 0x3F81), (1.0078125, 0x3F81), (0.0, 0), (1e-45, 1)])
def test_rounding_up_to_bfloat16(value, bits):
    assert round_up_to_bfloat16(np.array([value], np.float32)).view(np.uint16)[0] == bits


def test_ties_go_to_the_even_integer():
    weights = np.zeros((1, 64), np.float32)
    weights[0, :5] = [127, 0.5, 1.5, -0.5, -2.5]
    values, scales = quantize(weights, "int8", 64)
    assert scales[0, 0] == 1
    assert values[0, :5].tolist() == [127, 0, 2, 0, -2]


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(value, form):
    weights = np.ones((20, 70), np.float32)
    weights[17, 69] = value
    with pytest.raises(CheckpointError, match=r"layer 3: row 17 holds NaN or an infinite value; such weights are refused"):
        pack_weights(weights, form, 64 if form in LIMITS else 0, where="layer 3")


def test_a_weight_beyond_bfloat16_is_refused():
    with pytest.raises(CheckpointError, match="row 0 holds"):
        pack_weights(np.full((1, 2), 3.4e38, np.float32), "bfloat16", 0)


@pytest.mark.parametrize(("form", "group", "match"), [
    ("int8", 32, "got groups of 32 columns, int8 knows 64 and 128. Fix: use 64."),
    ("bfloat16", 64, "bfloat16 knows 0"),
    ("int3", 64, "got 'int3', known are float32, bfloat16, int8, int4."),
])  # fmt: skip
def test_other_forms_and_groups_are_refused(form, group, match):
    with pytest.raises(ConfigError, match=match):
        check_form(form, group)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_other_element_types_are_widened_first(dtype):
    weights = np.random.default_rng(0).standard_normal((5, 64)).astype(dtype)
    for form, group in [("int4", 64), ("bfloat16", 0), ("float32", 0)]:
        expected = pack_weights(weights.astype(np.float32), form, group)
        np.testing.assert_array_equal(pack_weights(weights, form, group).values, expected.values)


def test_error_of_known_matrices():
    weights = np.array([[1.0, -4.0, 0.0], [2.0, 2.0, 2.0]], np.float32)
    restored = np.array([[1.5, -4.0, 0.0], [2.0, 1.0, 2.0]], np.float32)
    error = weight_error(weights, restored, 2)
    rms = np.sqrt(29 / 6)
    assert error.worst == 1.0
    assert error.mean == pytest.approx(1.5 / 6)
    assert error.worst_of_amax == 0.5
    assert error.worst_of_rms == pytest.approx(1 / rms)
    assert error.relative == pytest.approx(np.sqrt(1.25 / 6) / rms)


@pytest.mark.parametrize(
    ("form", "of_amax", "relative"), [("int8", 1 / 252, 0.007), ("int4", 1 / 13.9, 0.13), ("bfloat16", 2.0**-8, 0.002)]
)
def test_errors_of_normal_weights(form, of_amax, relative):
    """Half a step of amax / limit, the step up to 2^-7 larger because its scale is rounded up; a bfloat16 is within 2^-9 of its size."""
    weights = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    group = 64 if form in LIMITS else 0
    error = weight_error(weights, unpack_weights(pack_weights(weights, form, group)), group)
    assert 0 < error.worst_of_amax <= of_amax
    assert 0 < error.relative <= relative


def test_sizes():
    assert [padded_columns(130, form, 64) for form in ("float32", "bfloat16", "int8", "int4")] == [130, 130, 192, 192]
    assert padded_columns(5, "bfloat16", 0) == 6
    assert bits_per_weight("int8", 64) == 8.25
    assert bits_per_weight("int4", 128) == 4.125
    for shape in [(0, 64), (3, 0)]:
        packed = pack_weights(np.zeros(shape, np.float32), "int4", 64)
        assert unpack_weights(packed).shape == shape
