"""The network kernel against a Llama in numpy float64, over ragged batches, forms, head sizes and long contexts."""

import numpy as np
import pytest
from forward_case import FORMS, Toy, forward

from mindformers_codellama.kernels.library import call

pytestmark = pytest.mark.usefixtures("level")

BOUNDS = {
    # Sums of float32 in another order than numpy's: what the parity tests of the whole model use.
    "float32": 2e-5,
    # Inputs of every product, keys and values carry a relative rounding error of up to 2^-9; over two layers of eight such steps
    # that add like independent errors, sqrt(16) * 2^-9 / sqrt(3) = 0.5 %; the largest of many outputs is three to four times that.
    "bfloat16": 2e-2,
    # Inputs are rounded to 1/254 of the largest of their group: about 0.3 % of a typical value three times smaller than it, and
    # keys and values to bfloat16.
    "int8": 3e-2,
    "int4": 3e-2,
}


def error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def ids_of(toy, length, seed=9):
    return np.random.default_rng(seed).integers(0, toy.vocabulary, length)


@pytest.mark.parametrize("form", FORMS)
def test_a_ragged_batch_in_shuffled_pages_then_steps(form):
    toy = Toy(form=form)
    rows = [ids_of(toy, length, seed=length) for length in (33, 1, 20)]
    table = np.full((3, 4), -1)
    table[0, :3], table[1, :1], table[2, :2] = [7, 2, 5], [0], [6, 1]
    pools = toy.pools(8)
    first = forward(toy, pools, table, [(0, 0, rows[0][:30]), (2, 0, rows[2][:7])])
    second = forward(toy, pools, table, [(2, 7, rows[2][7:19]), (1, 0, rows[1]), (0, 30, rows[0][30:32])])
    third = forward(toy, pools, table, [(0, 32, rows[0][32:]), (2, 19, rows[2][19:])])
    found = {0: [first[:30], second[13:], third[:1]], 1: [second[12:13]], 2: [first[30:], second[:12], third[1:]]}
    for row, logits in found.items():
        assert error(np.concatenate(logits), toy.reference(rows[row])) < BOUNDS[form]


@pytest.mark.parametrize("form", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"head_dim": 48, "heads": 2, "kv_heads": 1},
        {"head_dim": 64, "heads": 2, "kv_heads": 2},
        {"head_dim": 128, "heads": 3, "kv_heads": 1},
        {"head_dim": 8, "heads": 8, "kv_heads": 1, "hidden": 36, "inner": 50, "vocabulary": 19},
        {"head_dim": 2, "heads": 5, "kv_heads": 5, "hidden": 10, "inner": 7},
    ],
)
def test_heads_of_any_size_and_grouping(form, sizes):
    toy = Toy(form=form, layers=1, **sizes)
    ids = ids_of(toy, 40)
    found = forward(toy, toy.pools(3), [[2, 0, 1]], [(0, 0, ids)])
    assert error(found, toy.reference(ids)) < BOUNDS[form]


@pytest.mark.parametrize("pool_form", ["float32", "bfloat16"])
def test_a_context_over_several_spans(pool_form):
    """Steps whose keys are shared by threads in spans of 512 equal reading the prompt at once, in chunks of 512 tokens."""
    toy = Toy(layers=1, heads=4, kv_heads=1, positions=1300, pool_form=pool_form)
    ids = ids_of(toy, 1300)
    table = [np.random.default_rng(1).permutation(82)]
    pools = toy.pools(82)
    found = [forward(toy, pools, table, [(0, 0, ids[:1290])], wanted=[3, 600, 1289])]
    found += [forward(toy, pools, table, [(0, 1290, ids[1290:1294])]), forward(toy, pools, table, [(0, 1294, ids[1294:1295])])]
    bound = 2e-5 if pool_form == "float32" else 1e-2  # only keys, values and the weights of values are rounded
    assert error(np.concatenate(found), toy.reference(ids)[[3, 600, 1289, 1290, 1291, 1292, 1293, 1294]]) < bound


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
def test_a_token_gets_the_same_bits_alone_and_in_company(form):
    toy = Toy(form=form, positions=640)
    ids, other = ids_of(toy, 600), ids_of(toy, 50, seed=3)
    table = np.arange(80).reshape(2, 40)
    pools = toy.pools(80)
    forward(toy, pools, table, [(0, 0, ids[:599])])
    alone = forward(toy, pools, table, [(0, 599, ids[599:])])
    together = forward(toy, toy.pools(80), table, [(1, 0, other), (0, 0, ids)], wanted=[649])
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("form", ["float32", "int4"])
def test_a_row_reads_pages_that_an_earlier_row_writes_in_the_same_pass(form):
    toy = Toy(form=form)
    first, ending = ids_of(toy, 35), ids_of(toy, 9, seed=4)
    second = np.concatenate([first[:32], ending])
    found = forward(toy, toy.pools(5), [[4, 1, 2], [4, 1, 0]], [(0, 0, first), (1, 32, ending)])
    assert error(found[35:], toy.reference(second)[32:]) < BOUNDS[form]


def test_a_long_float32_prompt_goes_through_blocked_products():
    """From 32 tokens on; and the last layer of the unwanted ones is left out."""
    toy = Toy(positions=640, separate=True)
    ids = ids_of(toy, 600)
    wanted = [0, 511, *range(530, 600)]
    assert error(forward(toy, toy.pools(38), [np.arange(38)], [(0, 0, ids)], wanted), toy.reference(ids)[wanted]) < BOUNDS["float32"]


@pytest.mark.parametrize("biases", [False, True])
def test_separate_parameters_with_and_without_biases(biases):
    toy = Toy(separate=True, biases=biases)
    ids = ids_of(toy, 21)
    assert error(forward(toy, toy.pools(2), [[1, 0]], [(0, 0, ids)]), toy.reference(ids)) < BOUNDS["float32"]


@pytest.mark.parametrize("form", ["bfloat16", "int8"])
def test_biases_of_packed_models(form):
    toy = Toy(form=form, biases=True)
    ids = ids_of(toy, 21)
    assert error(forward(toy, toy.pools(2), [[1, 0]], [(0, 0, ids)]), toy.reference(ids)) < BOUNDS[form]


def test_without_the_newest_key_the_bound_is_exceeded():
    """The seeded break of this file: a position one too far."""
    toy = Toy()
    ids = ids_of(toy, 20)
    pools = toy.pools(2)
    forward(toy, pools, [[0, 1]], [(0, 0, ids[:19])])
    pools[0][0, :, :, :] = 0
    assert error(forward(toy, pools, [[0, 1]], [(0, 19, ids[19:])]), toy.reference(ids)[19:]) > 100 * BOUNDS["float32"]


def test_an_open_model_gives_the_same_and_a_closed_one_is_refused():
    toy = Toy()
    ids = ids_of(toy, 5)
    tokens = np.stack([ids, np.arange(5), np.zeros(5)]).astype(np.int32)
    handle, closed, logits = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, toy.vocabulary), np.float32)
    call("LlamaOpen", toy.inputs, [handle])
    request = [handle, tokens, np.array([4], np.int32), np.zeros((1, 1), np.int32), *toy.pools(1)]
    call("LlamaStep", request, [logits])
    np.testing.assert_array_equal(logits, forward(toy, toy.pools(1), [[0]], [(0, 0, ids)], wanted=[4]))
    call("LlamaClose", [handle], [closed])
    with pytest.raises(ValueError, match="there is no open model"):
        call("LlamaStep", request, [logits])


def bad_requests():
    ids = np.arange(4)
    return [
        ("token id 67 is not below 67", [(0, 0, [67])], [[0, 1]], None),
        ("token id -1 is not below 67", [(0, 0, [-1])], [[0, 1]], None),
        ("row 1 is not below 1", [(1, 0, ids)], [[0, 1]], None),
        ("position 64 is not below 64", [(0, 62, ids)], [[0, 1, 2, 3]], None),
        ("lies behind the last page", [(0, 30, ids)], [[0, 1]], None),
        ("page -1 is not below 4", [(0, 14, ids)], [[0, -1]], None),
        ("page 4 is not below 4", [(0, 20, ids)], [[4, 1]], None),
        ("is written by two rows", [(0, 0, ids), (1, 0, ids)], [[1], [1]], None),
        ("is written by a later row", [(0, 16, ids), (1, 0, ids)], [[1, 0], [1, 2]], None),
        ("does not follow the one before", [(0, 0, ids), (0, 5, ids)], [[0, 1]], None),
        ("does not follow the one before", [(0, 0, ids), (1, 0, ids), (0, 4, ids)], [[0], [1]], None),
        ("a wanted token 4 is none of 4", [(0, 0, ids)], [[0]], [4]),
        ("wanted token 1 does not come after 2", [(0, 0, ids)], [[0]], [2, 1]),
    ]


@pytest.mark.parametrize(("message", "pieces", "table", "wanted"), bad_requests())
def test_indices_outside_their_range_are_refused(message, pieces, table, wanted):
    toy = Toy()
    with pytest.raises(ValueError, match=message):
        forward(toy, toy.pools(4), table, pieces, wanted)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda sizes: sizes * 0, "size 0 is 0"),
        (0, lambda sizes: sizes + np.eye(1, 12, 3, dtype=np.int64)[0], "no multiple of kv heads"),
        (0, lambda sizes: np.where(np.isin(np.arange(12), [2, 3, 4]), 1 << 22, sizes), "heads times head dim are 17592186044416"),
        (0, lambda sizes: sizes + 9 * np.eye(1, 12, 7, dtype=np.int64)[0], "form 9"),
        (0, lambda sizes: sizes + np.eye(1, 12, 9, dtype=np.int64)[0], "page size 17"),
        (1, lambda reals: reals.astype(np.float64), "reals must be float32"),
        (4, lambda table: table[:-1].copy(), "embedding has"),
        (6, lambda values: values[:-1].copy(), "qkv has"),
        (10, lambda values: values.astype(np.int32), "head must be float32"),
    ],
)
def test_models_that_do_not_fit_their_sizes_are_refused(place, change, message):
    toy = Toy()
    toy.inputs[place] = change(toy.inputs[place])
    with pytest.raises(ValueError, match=message):
        forward(toy, toy.pools(1), [[0]], [(0, 0, [1])])


def test_another_group_is_refused():
    toy = Toy(form="int8")
    toy.inputs[0] = toy.inputs[0] - 32 * np.eye(1, 12, 8, dtype=np.int64)[0]
    with pytest.raises(ValueError, match="group 32 is neither 64 nor 128"):
        forward(toy, toy.pools(1), [[0]], [(0, 0, [1])])


def test_no_new_tokens_give_no_logits():
    toy = Toy()
    assert forward(toy, toy.pools(1), [[0]], [(0, 0, np.zeros(0, int))]).shape == (0, toy.vocabulary)
