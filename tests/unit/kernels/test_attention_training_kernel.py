"""Attention for training against torch in float64, at every level and in both types.

Bounds. float32: scores have an absolute error of about u sqrt(H) |q| |k| / sqrt(H), u = 2^-24; weights are wrong by that much
relatively, and sums of them by less. With |q| |k| / sqrt(H) <= 10 that is below 1e-5 of the largest value, for gradients (two
more products and the difference dp - delta) below 3e-5. bfloat16: weights and score gradients are rounded to 8 bits before a
product (2^-9 relatively each), results once more, and rotated queries and keys too, which moves scores by up to about
2^-8 |q| |k| / sqrt(H) H^(-1/2); together below 3e-2 of the largest value for normal inputs.
"""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.library import call

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("level")

BF16 = np.dtype(ml_dtypes.bfloat16)
TYPES = (np.dtype(np.float32), BF16)
BOUND = {TYPES[0]: 3e-5, BF16: 3e-2}
PAD = 0


def table(positions, width, theta=1e4):
    angles = np.outer(np.arange(positions), theta ** (-np.arange(0, width, 2) / width))
    return np.concatenate((np.cos(angles), np.sin(angles)), -1).astype(np.float32)


class Case:
    """Inputs of one call; `ins` in the order of the entry points."""

    def __init__(self, shape, dtype=np.float32, *, seed=0, size=1.0):
        self.rows, self.length, self.heads, self.kv_heads, self.width = shape
        random = np.random.default_rng(seed)

        def normal(heads, scale=1.0):
            return (random.standard_normal((self.rows, self.length, heads * self.width)) * scale).astype(np.float32).astype(dtype)

        self.random = random
        self.q, self.k, self.v = normal(self.heads, size), normal(self.kv_heads), normal(self.kv_heads)
        self.do = normal(self.heads)
        self.table = table(max(1, self.length), self.width)
        self.positions = np.tile(np.arange(self.length, dtype=np.int32), (self.rows, 1))
        self.segments = np.zeros((self.rows, self.length), np.int32)
        self.tokens = np.ones((self.rows, self.length), np.int32)

    def pack(self, samples):
        """Rows of several samples, each with its own positions."""
        for row in range(self.rows):
            cuts = np.sort(self.random.integers(0, self.length, samples - 1))
            self.segments[row] = np.searchsorted(cuts, np.arange(self.length), side="right")
            self.positions[row] -= np.concatenate(([0], cuts)).astype(np.int32)[self.segments[row]]
        return self

    def pad(self, share):
        self.tokens[self.random.random(self.tokens.shape) < share] = PAD
        return self

    @property
    def ins(self):
        heads = np.array([self.heads, self.kv_heads, PAD], np.int32)
        return [self.q, self.k, self.v, self.table, self.positions, self.segments, self.tokens, heads]

    def visible(self):
        order = np.arange(self.length)
        same = self.segments[:, :, None] == self.segments[:, None, :]
        return (order[None, :] <= order[:, None])[None] & same & (self.tokens != PAD)[:, None, :]


def run(case):
    """o, lse, dq, dk, dv."""
    o, lse = np.full_like(case.q, 7), np.full((case.rows, case.heads, case.length), 7, np.float32)
    call("AttentionForward", case.ins, [o, lse])
    grads = [np.full_like(x, 7) for x in (case.q, case.k, case.v)]
    call("AttentionBackward", [*case.ins, o, lse, case.do], grads)
    return [o, lse, *grads]


def reference(case):
    """The same in float64, from the formula with the whole (S, S) matrix; a query that sees nothing gives 0."""
    b, s, n, k, h = case.rows, case.length, case.heads, case.kv_heads, case.width
    leaves = [torch.tensor(x.astype(np.float64), requires_grad=True) for x in (case.q, case.k, case.v)]
    turn = torch.tensor(case.table.astype(np.float64)[case.positions])[:, :, None]
    cos, sin = turn[..., : h // 2], turn[..., h // 2 :]

    def rotate(x):
        first, second = x[..., : h // 2], x[..., h // 2 :]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    q = rotate(leaves[0].view(b, s, n, h)).transpose(1, 2)
    keys = rotate(leaves[1].view(b, s, k, h)).transpose(1, 2).repeat_interleave(n // k, 1)
    values = leaves[2].view(b, s, k, h).transpose(1, 2).repeat_interleave(n // k, 1)
    visible = torch.tensor(case.visible())[:, None]
    sees = visible.any(-1, keepdim=True)
    scores = (q @ keys.transpose(-1, -2) / np.sqrt(h)).masked_fill(~visible & sees, -torch.inf)
    lse = torch.where(sees[..., 0], torch.logsumexp(scores, -1), 0.0)
    o = ((torch.softmax(scores, -1) * sees) @ values).transpose(1, 2).reshape(b, s, n * h)
    o.backward(torch.tensor(case.do.astype(np.float64)))
    return [x.detach().numpy() for x in (o, lse.broadcast_to(b, n, s), *(leaf.grad for leaf in leaves))]


def check(case, bound=None):
    bound = bound or BOUND[case.q.dtype]
    for name, got, wanted in zip(("o", "lse", "dq", "dk", "dv"), run(case), reference(case), strict=True):
        # a softmax over one key has no score gradient: what is there is rounding of numbers of size |do| |v|
        size = max(1.0, np.abs(wanted).max(initial=0))
        error = np.abs(got.astype(np.float64) - wanted).max(initial=0)
        assert error <= bound * size, f"{name}: {error} of {size}"


SHAPES = [
    (1, 1, 1, 1, 2),
    (2, 5, 4, 2, 48),
    (1, 64, 2, 1, 64),
    (1, 65, 4, 4, 16),
    (2, 130, 6, 2, 64),
    (1, 97, 2, 1, 128),
    (1, 200, 1, 1, 10),
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, dtype):
    check(Case(shape, dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_segments_and_pads(dtype):
    check(Case((2, 200, 4, 2, 32), dtype).pack(4).pad(0.2))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 2),
    length=st.integers(1, 140),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    half=st.integers(1, 40),
    samples=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.1, 0.9]),
    seed=st.integers(0, 99),
)
def test_any_shape(rows, length, kv_heads, group, half, samples, share, seed):
    check(Case((rows, length, kv_heads * group, kv_heads, 2 * half), seed=seed).pack(samples).pad(share))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rows_of_pads_give_zeros(dtype):
    case = Case((2, 70, 2, 1, 16), dtype)
    case.tokens[0] = PAD
    o, lse, dq, dk, dv = run(case)
    for tensor in (o, lse, dq, dk, dv):
        assert (tensor[0] == 0).all()
    check(case)


def test_huge_scores_stay_exact_where_one_key_wins():
    # scores of 1e5 and more: the largest takes everything, as in float64; a fixed mask of -10000 would let hidden keys through
    case = Case((1, 80, 2, 2, 32), size=1e5).pack(3).pad(0.2)
    o, lse, dq, dk, dv = run(case)
    wanted = reference(case)
    np.testing.assert_allclose(o, wanted[0], atol=2e-2)  # two scores within 1e-2 of one another, of 1e5, are hardly told apart
    assert all(np.isfinite(x).all() for x in (o, lse, dq, dk, dv))


def test_nan_is_not_hidden():
    case = Case((1, 70, 1, 1, 16))
    case.q[0, 66, 3] = np.nan
    o, _, dq, dk, _ = run(case)
    assert np.isnan(o[0, 66]).all()
    assert np.isfinite(o[0, :66]).all()
    assert np.isnan(dq[0, 66]).any()
    assert np.isnan(dk).any()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(dtype):
    case = Case((1, 260, 3, 1, 32), dtype).pack(2).pad(0.1)
    try:
        library.set_threads(1)
        alone = run(case)
        for threads in (2, 3):  # 3 threads for one key/value head: heads are divided by blocks
            library.set_threads(threads)
            for got, wanted in zip(run(case), alone, strict=True):
                np.testing.assert_array_equal(got, wanted)
    finally:
        library.set_threads(library.usable_cores())


def test_bfloat16_is_as_good_as_rounded_operands_allow():
    case = Case((1, 128, 2, 2, 64), BF16)
    exact = Case((1, 128, 2, 2, 64))
    exact.q, exact.k, exact.v, exact.do = (x.astype(np.float32) for x in (case.q, case.k, case.v, case.do))
    for got, wanted in zip(run(case), run(exact), strict=True):
        got = got.astype(np.float64)  # noqa: PLW2901
        # root of the mean square error: one rounding of 2^-9 in each of four places, and score errors of the same size
        assert np.sqrt(((got - wanted) ** 2).mean()) <= 6e-3 * np.sqrt((wanted.astype(np.float64) ** 2).mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda case: setattr(case, "positions", case.positions + 1), "is not in the table"),
        (lambda case: setattr(case, "positions", case.positions - 1), "is not in the table"),
        (lambda case: setattr(case, "kv_heads", 3), "K must divide N"),
        (lambda case: setattr(case, "heads", 0), "K must divide N"),
        (lambda case: setattr(case, "k", case.k[..., :8].copy()), "k and v must be"),
        (lambda case: setattr(case, "v", case.v.astype(BF16)), "must be float32"),
        (lambda case: setattr(case, "table", case.table[:, :8].copy()), "table must be"),
        (lambda case: setattr(case, "tokens", case.tokens[:, :3].copy()), "tokens must be"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    case = Case((1, 4, 4, 2, 16))
    change(case)
    with pytest.raises(ValueError, match=message):
        call("AttentionForward", case.ins, [np.empty_like(case.q), np.empty((1, 4, 4), np.float32)])


def test_no_rows_and_no_positions():
    for shape in ((0, 4, 2, 1, 8), (2, 0, 2, 1, 8)):
        assert all(x.size == 0 for x in run(Case(shape)))
