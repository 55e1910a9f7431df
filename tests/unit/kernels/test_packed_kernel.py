"""Products of packed weights against numpy, in every form and at every level."""

import ctypes

import ml_dtypes
import numpy as np
import pytest

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.library import call
from mindformers_codellama.kernels.packed import pack_weights_fast
from mindformers_codellama.quantization.formats import FORMS, LIMITS
from mindformers_codellama.quantization.packing import packed_shape, scales_shape, unpack_int4, unpack_int8, unpack_scales
from mindformers_codellama.quantization.quantize import pack_weights, unpack_weights

pytestmark = pytest.mark.usefixtures("level")

UNIT = 2.0**-24
"""Rounding error of one float32 operation, relative."""
# One row, the rows of a block and one more, several blocks, no row; N and K that fill no tile, no vector and no group.
SHAPES = [(0, 16, 64), (1, 1, 1), (1, 16, 64), (1, 75, 200), (2, 33, 129), (3, 100, 64), (5, 17, 131), (7, 64, 130), (8, 96, 256),
          (12, 40, 65), (13, 48, 192), (16, 130, 320), (17, 31, 127), (25, 70, 100), (70, 50, 192), (4, 5, 3), (3, 0, 64),
          (2, 20, 0)]  # fmt: skip


def group_of(form, group=64):
    return group if form in LIMITS else 0


def settings_of(packed):
    return np.array([FORMS.index(packed.form), packed.rows, packed.columns, packed.group], np.int32)


def linear(x, packed, base=None):
    y = np.full((*x.shape[:-1], packed.rows), 7, np.float32)
    scales = np.zeros(1, np.uint16) if packed.scales is None else packed.scales
    call("PackedLinear", [x, packed.values, scales, settings_of(packed), *([] if base is None else [base])], [y])
    return y


def quantised_rows(x, group):
    """Integers and scales of an input, as the kernels' header says, in float32."""
    rows, columns = x.shape
    count = -(-columns // group)
    groups = np.zeros((rows, count * group), np.float32)
    groups[:, :columns] = x
    groups = groups.reshape(rows, count, group)
    amax = np.abs(groups).max(-1)
    usual = amax >= np.float32(2.0**-100)
    inverse = np.where(usual, np.float32(127) / np.where(usual, amax, np.float32(1)), np.float32(0))
    return np.rint(groups * inverse[..., None]).astype(np.int64), np.where(usual, amax / np.float32(127), np.float32(0))


def integer_product(x, packed):
    """What the kernels must give bit for bit: exact sums of groups, then float32 in the order of the columns."""
    unpack = unpack_int8 if packed.form == "int8" else unpack_int4
    integers = unpack(packed.values, packed.rows).astype(np.int64)
    scales = unpack_scales(packed.scales, packed.rows).astype(np.float32)
    values, input_scales = quantised_rows(x, packed.group)
    integers = integers.reshape(*scales.shape, packed.group)
    total = np.zeros((len(x), packed.rows), np.float32)
    for g in range(values.shape[1]):
        dot = values[:, g] @ integers[:, g].T
        assert np.abs(dot).max(initial=0) < 2**24, "a sum of a group is exact in float32"
        total += dot.astype(np.float32) * (scales[:, g] * input_scales[:, g : g + 1])
    return total


def check(x, packed):
    """Integer forms exactly; the others within the rounding of a sum of K products in any order (Higham, section 3.1)."""
    y = linear(x, packed)
    if packed.form in LIMITS:
        np.testing.assert_array_equal(y, integer_product(x, packed))
        return
    weights = unpack_weights(packed).astype(np.float64)
    inputs = (x.astype(ml_dtypes.bfloat16) if packed.form == "bfloat16" else x).astype(np.float64)
    bound = (packed.columns + 1) * UNIT * (np.abs(inputs) @ np.abs(weights).T)
    error = np.abs(y - inputs @ weights.T)
    # the instruction for pairs of bfloat16 takes and gives zeros for subnormal numbers: K times 2^-126 at most
    assert (error <= bound + packed.columns * 2.0**-126).all(), (error - bound).max()


def random_case(shape, form, group=64, seed=0):
    rows, out, columns = shape
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, columns)).astype(np.float32) * np.exp2(random.integers(-3, 3, (rows, 1))).astype(np.float32)
    weights = (random.standard_normal((out, columns)) * 0.05).astype(np.float32)
    return x, pack_weights(weights, form, group_of(form, group))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, form):
    check(*random_case(shape, form))


@pytest.mark.parametrize("form", LIMITS)
@pytest.mark.parametrize("shape", [(1, 40, 300), (9, 33, 128), (14, 16, 129)], ids=str)
def test_groups_of_128(shape, form):
    check(*random_case(shape, form, group=128))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", range(1, 36))
def test_any_number_of_rows(rows, form):
    check(*random_case((rows, 48, 128), form, seed=rows))


@pytest.mark.parametrize("form", LIMITS)
@pytest.mark.parametrize("rows", [1, 6])
def test_the_largest_integers_do_not_saturate(rows, form):
    limit = LIMITS[form]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (32, 128)).astype(np.float32)
    signs[0] = 1
    x = np.repeat(signs[:1], rows, 0) * 127
    packed = pack_weights(signs * limit, form, 64)
    check(x, packed)
    assert (linear(x, packed)[:, 0] == 128 * 127 * limit).all()


@pytest.mark.parametrize("form", FORMS)
def test_one_row_gives_the_same_alone_and_in_a_batch(form):
    x, packed = random_case((23, 80, 256), form)
    together = linear(x, packed)
    alone = np.concatenate([linear(row[None], packed) for row in x])
    if form == "float32":  # its sums run over other lanes
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    else:
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_adding_to_what_is_there(rows, form):
    x, packed = random_case((rows, 50, 130), form)
    base = np.random.default_rng(1).standard_normal((rows, 50)).astype(np.float32)
    np.testing.assert_array_equal(linear(x, packed, base), base + linear(x, packed))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-36, 1e-30, 3e30, 3e38])
def test_huge_and_tiny_inputs(value, rows, form):
    x, packed = random_case((rows, 20, 96), form)
    x[:, 3] = value
    check(x, packed)
    check(np.full_like(x, value), pack_weights(np.eye(20, 96, dtype=np.float32), form, group_of(form)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_no_number_shows_in_its_own_row(value, form):
    x, packed = random_case((3, 20, 130), form)
    clean = linear(x, packed)
    x[1, 129] = value
    y = linear(x, packed)
    assert not np.isfinite(y[1]).any()
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [1, 3, 7])
@pytest.mark.parametrize("shape", [(9, 33, 128), (5, 16, 128)])
def test_more_threads_than_cores_or_tiles(shape, threads, form):
    x, packed = random_case(shape, form)
    expected = linear(x, packed)
    before = library.load_library().codellama_threads()
    try:
        library.set_threads(threads)
        np.testing.assert_array_equal(linear(x, packed), expected)
    finally:
        library.set_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (37, 200), (0, 64), (3, 0), (50, 129)])
def test_packing_gives_the_bytes_of_numpy(shape, form, dtype):
    random = np.random.default_rng(0)
    scale = np.exp2(random.integers(-140, 100, (shape[0], 1)).astype(np.float64))
    weights = (random.standard_normal(shape) * scale).astype(np.float32).astype(dtype)
    weights[:1] = 0
    wanted = pack_weights(weights, form, group_of(form))
    values = np.ones(packed_shape(*shape, form, wanted.group), wanted.values.dtype)
    if form == "bfloat16":
        call("PackWeights", [weights, settings_of(wanted)], [values])
    else:
        scales = np.ones(scales_shape(*shape, wanted.group), wanted.scales.dtype)
        call("QuantizeWeights", [weights, settings_of(wanted)], [values, scales])
        np.testing.assert_array_equal(scales.view(np.uint16), wanted.scales.view(np.uint16))
    np.testing.assert_array_equal(values.view(np.uint8), wanted.values.view(np.uint8))


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_no_rows_may_have_no_address(form):
    """As an allocator of a framework may say of an empty tensor."""
    if not isinstance(library.load_library(), ctypes.CDLL):
        pytest.skip("the library runs in another process")
    shapes = ([0, 64], [4], packed_shape(0, 64, form, 64), scales_shape(0, 64, 64))
    settings = settings_of(pack_weights(np.zeros((0, 64), np.float32), form, 64))
    data = (ctypes.c_void_p * 4)(None, settings.ctypes.data, None, None)
    sizes = [(ctypes.c_int64 * len(shape))(*shape) for shape in shapes]
    pointers = (ctypes.POINTER(ctypes.c_int64) * 4)(*(ctypes.cast(size, ctypes.POINTER(ctypes.c_int64)) for size in sizes))
    dims, dtypes = (ctypes.c_int * 4)(*map(len, shapes)), (ctypes.c_char_p * 4)(b"float32", b"int32", b"uint8", b"uint16")
    failed = library.load_library().QuantizeWeights(4, data, dims, pointers, dtypes, None, None)
    assert not failed, library.last_error()


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
def test_weights_that_are_no_numbers_are_refused(form):
    weights = np.ones((20, 64), np.float32)
    wanted = pack_weights(weights, form, group_of(form))
    weights[18, 5] = np.inf
    outputs = [np.empty_like(wanted.values), *([] if wanted.scales is None else [np.empty_like(wanted.scales)])]
    with pytest.raises(ValueError, match="row 18 holds NaN"):
        call("PackWeights" if form == "bfloat16" else "QuantizeWeights", [weights, settings_of(wanted)], outputs)


def test_wrong_arguments_are_refused_with_a_message():
    x, packed = random_case((2, 16, 128), "int8")
    y = np.empty((2, 16), np.float32)
    arguments = [x, packed.values, packed.scales, settings_of(packed)]

    def refused(match, index, value):
        with pytest.raises(ValueError, match=match):
            call("PackedLinear", [*arguments[:index], value, *arguments[index + 1 :]], [y])

    refused("x has 64 columns, the weights 128", 0, np.ones((2, 64), np.float32))
    refused("the values have 1024 bytes, must have 2048", 1, packed.values[:, :16].copy())
    refused("the scales have another size", 2, np.zeros(3, np.uint16))
    refused("groups of 32 columns are not known", 3, np.array([2, 16, 128, 32], np.int32))
    refused("there is no form 9", 3, np.array([9, 16, 128, 64], np.int32))
    refused("cannot be negative", 3, np.array([2, -16, 128, 64], np.int32))
    refused("must be int32", 3, settings_of(packed).astype(np.int64))


@pytest.mark.parametrize("form", FORMS)
def test_packing_fast_is_packing(form):
    weights = np.random.default_rng(0).standard_normal((19, 70)).astype(np.float32)
    fast, plain = pack_weights_fast(weights, form, group_of(form)), pack_weights(weights, form, group_of(form))
    assert (fast.values.dtype, fast.rows, fast.columns) == (plain.values.dtype, 19, 70)
    np.testing.assert_array_equal(unpack_weights(fast), unpack_weights(plain))
    weights[7, 3] = np.nan
    with pytest.raises(CheckpointError, match="wq: row 7 holds NaN"):
        pack_weights_fast(weights, form, group_of(form), where="wq")
