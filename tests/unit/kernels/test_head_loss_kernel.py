"""The head with its loss in chunks against torch in float64, with labels, weights and vocabularies of every kind.

Bounds. float32: a logit is a sum of D products, wrong by about sqrt(D) u sum |h w| = 1e-6 here, and so are the softmax and the
gradients relatively; V and X terms are added in blocks. bfloat16: operands are rounded to bfloat16 beforehand, so logits are as
good as in float32; the gradient of the logits is rounded once (2^-9), a sum of such errors stays below 1e-2 of the largest value.
"""

import ml_dtypes
import numpy as np
import pytest

from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.library import call

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("level")

BF16 = np.dtype(ml_dtypes.bfloat16)
TYPES = (np.dtype(np.float32), BF16)
BOUND = {TYPES[0]: 1e-5, BF16: 1e-2}


def inputs(tokens, width, vocabulary, dtype, seed=0):
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((tokens, width)).astype(np.float32).astype(dtype)
    head = random.standard_normal((vocabulary, width)).astype(np.float32).astype(dtype).astype(np.float32)
    labels = random.integers(0, vocabulary, tokens).astype(np.int32)
    weights = random.random(tokens).astype(np.float32)
    return [hidden, head, labels, weights]


def run(arguments):
    """loss, dhidden, dhead."""
    loss, alone = np.full(1, 7, np.float32), np.full(1, 8, np.float32)
    grads = [np.full_like(arguments[0], 7), np.full_like(arguments[1], 7)]
    call("HeadLossWithGrad", arguments, [loss, *grads])
    call("HeadLoss", arguments, [alone])
    np.testing.assert_array_equal(alone, loss)
    return loss, *grads


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_frozen_head_changes_neither_loss_nor_the_other_gradient(dtype):
    if not hasattr(library.load_library(), "HeadLossInputGrad"):
        pytest.skip("the library was built before it had this entry point")
    arguments = inputs(150, 24, 70000, dtype)  # several chunks
    arguments[3][::3] = 0
    loss, dhidden = np.full(1, 7, np.float32), np.full_like(arguments[0], 7)
    call("HeadLossInputGrad", arguments, [loss, dhidden])
    wanted = run(arguments)
    np.testing.assert_array_equal(loss, wanted[0])
    np.testing.assert_array_equal(dhidden, wanted[1])


def reference(arguments):
    hidden, head = (torch.tensor(x.astype(np.float64), requires_grad=True) for x in arguments[:2])
    weights = torch.tensor(arguments[3].astype(np.float64))
    labels = torch.tensor(np.where(arguments[3] == 0, 0, arguments[2]), dtype=torch.long)
    chosen = torch.log_softmax(hidden @ head.T, -1)[torch.arange(len(labels)), labels]
    loss = -(chosen * weights).sum()
    loss.backward()
    return np.array([loss.item()]), hidden.grad.numpy(), head.grad.numpy()


def check(arguments):
    for name, got, wanted in zip(("loss", "dhidden", "dhead"), run(arguments), reference(arguments), strict=True):
        error, size = np.abs(got.astype(np.float64) - wanted).max(initial=0), max(1.0, np.abs(wanted).max(initial=0))
        # logits of 5 and more (hidden and head are normal): their error of some units moves every weight by that much
        bound = BOUND[arguments[0].dtype] if name != "loss" else 1e-5
        assert error <= bound * size, f"{name}: {error} of {size}"


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 4, 3), (5, 33, 16), (37, 64, 101), (3, 16, 1)], ids=str)
def test_loss_and_gradients(shape, dtype):
    check(inputs(*shape, dtype))


def test_chunks_add_up():
    # so many words leave room for 64 tokens in a chunk: 65 are two chunks, and must give what 64 and 1 give alone
    hidden, head, labels, weights = inputs(65, 2, 131_073, np.float32)
    whole = run([hidden, head, labels, weights])
    parts = [run([hidden[at], head, labels[at], weights[at]]) for at in (slice(0, 64), slice(64, 65))]
    np.testing.assert_allclose(whole[0], parts[0][0] + parts[1][0], rtol=1e-6)
    np.testing.assert_array_equal(whole[1], np.concatenate((parts[0][1], parts[1][1])))
    np.testing.assert_allclose(whole[2], parts[0][2] + parts[1][2], atol=1e-6)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tokens_of_weight_0_take_no_part_whatever_their_label(dtype):
    arguments = inputs(90, 16, 50, dtype)
    arguments[3][::3] = 0
    arguments[2][::3] = -100
    arguments[2][0] = 2**31 - 1
    check(arguments)
    assert (run(arguments)[1][::3] == 0).all()


def test_no_token_counts():
    for tokens in (0, 4):
        arguments = inputs(tokens, 8, 20, np.float32)
        arguments[3][:] = 0
        loss, dhidden, dhead = run(arguments)
        assert loss[0] == 0
        assert (dhidden == 0).all()
        assert (dhead == 0).all()


def test_huge_logits():
    arguments = inputs(9, 16, 40, np.float32)
    arguments[0] *= 1e4
    loss, dhidden, dhead = run(arguments)
    wanted = reference(arguments)
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(dhidden, wanted[1], atol=1e-2)  # logits of 1e5 are known to 1e-2
    assert np.isfinite(dhead).all()


def test_nan_is_not_hidden():
    arguments = inputs(9, 16, 40, np.float32)
    arguments[0][4, 2] = np.nan
    loss, dhidden, dhead = run(arguments)
    assert np.isnan(loss).all()
    assert np.isnan(dhidden[4]).all()
    assert np.isfinite(dhidden[3]).all()
    assert np.isnan(dhead).any()


def test_any_number_of_threads_gives_the_same_bits():
    arguments = inputs(150, 24, 1000, np.float32)
    try:
        library.set_threads(1)
        alone = run(arguments)
        for threads in (2, 3):
            library.set_threads(threads)
            for got, wanted in zip(run(arguments), alone, strict=True):
                np.testing.assert_array_equal(got, wanted)
    finally:
        library.set_threads(library.usable_cores())


def test_wrong_arguments_are_refused():
    arguments = inputs(4, 8, 20, np.float32)
    for label in (20, -1):
        with pytest.raises(ValueError, match="is not in the vocabulary"):
            run([*arguments[:2], np.full(4, label, np.int32), arguments[3]])
    with pytest.raises(ValueError, match=r"hidden must be \[X, D\]"):
        run([arguments[0][:, :7].copy(), *arguments[1:]])
    with pytest.raises(ValueError, match="labels and weights"):
        run([*arguments[:3], arguments[3][:2].copy()])
