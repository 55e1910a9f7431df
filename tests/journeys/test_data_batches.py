"""Batches: order, resume, ranks, and what is refused before training starts."""

import itertools

import numpy as np
import pytest

from mindformers_codellama.config.sections_data import DataLoaderSection, DatasetSection
from mindformers_codellama.data.batches import open_batches
from mindformers_codellama.data.manifest import Manifest
from mindformers_codellama.data.mindrecord import write_rows
from mindformers_codellama.errors import CodeLlamaError, DataError, TokenizerError

ROWS, LENGTH = 23, 9


def write(path, rows=ROWS, parts=1, columns=("input_ids", "labels"), length=LENGTH, manifest=None, top=None):
    """Row i begins with the id i."""

    def make():
        for i in range(rows):
            ids = np.full(length, i, np.int32)
            if top is not None and i == rows - 1:
                ids[3] = top
            yield dict.fromkeys(columns, ids)

    write_rows(path, make(), columns=columns, description="qa", parts=parts, manifest=manifest)
    return path


def manifest_of(**changes):
    values = {"kind": "qa", "files": (), "columns": ("input_ids", "labels"), "seq_length": LENGTH - 1, "rows": ROWS}
    values |= {"tokenizer_sha256": "0", "vocab_size": 100, "max_token_id": ROWS - 1, "tokenizer": "my.model"}
    return lambda files, rows: Manifest(**(values | changes))


def open_at(
    path, *, shuffle=True, batch_size=4, row_length=LENGTH, vocab_size=100, seed=7, rank=0, world_size=1, num_samples=None, **section
):
    section = {"input_columns": ("input_ids", "labels"), **section}
    loader = DataLoaderSection(dataset_dir=str(path), shuffle=shuffle, num_samples=num_samples)
    return open_batches(
        DatasetSection(data_loader=loader, **section),
        batch_size=batch_size,
        row_length=row_length,
        vocab_size=vocab_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "x.mindrecord")


def numbers(batches):
    return [batch["input_ids"][:, 0].tolist() for batch in batches]


def test_rows_come_in_order_without_shuffle_and_the_last_batch_is_short_when_kept(data):
    assert list(itertools.chain(*numbers(open_at(data, shuffle=False).epoch(0)))) == list(range(20))
    kept = open_at(data, shuffle=False, drop_remainder=False)
    assert kept.batches_per_epoch == 6
    assert numbers(kept.epoch(0))[-1] == [20, 21, 22]


def test_batches_are_int32_arrays_of_every_column(data):
    batch = next(open_at(data).epoch(0))
    assert {name: (values.shape, values.dtype) for name, values in batch.items()} == {
        "input_ids": ((4, LENGTH), np.int32),
        "labels": ((4, LENGTH), np.int32),
    }


def test_the_order_is_numpys_permutation_of_seed_epoch_and_reading(data):
    source = open_at(data, repeat=2)
    assert source.batches_per_epoch == 10
    expected = [np.random.default_rng((7, 3, reading)).permutation(ROWS)[:20] for reading in range(2)]
    assert list(itertools.chain(*numbers(source.epoch(3)))) == np.concatenate(expected).tolist()


def test_seeds_and_epochs_differ_and_the_datasets_own_seed_wins(data):
    orders = [numbers(open_at(data, seed=seed).epoch(epoch)) for seed, epoch in ((7, 0), (7, 1), (8, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    section = DatasetSection(data_loader=DataLoaderSection(dataset_dir=str(data)), seed=8)
    assert numbers(open_batches(section, batch_size=4, row_length=LENGTH, vocab_size=100, seed=7).epoch(0)) == orders[2]


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 9, 10])
def test_starting_at_k_equals_the_epoch_without_its_first_k_batches(data, start):
    source = open_at(data, repeat=2)
    assert numbers(source.epoch(2, start=start)) == numbers(source.epoch(2))[start:]


def test_rows_opened_in_blocks_are_the_same(data, monkeypatch):
    whole = numbers(open_at(data).epoch(0))
    monkeypatch.setattr("mindformers_codellama.data.batches._ROWS_AT_ONCE", 8)
    assert numbers(open_at(data).epoch(0)) == whole


def test_a_global_batch_is_the_same_rows_for_any_number_of_ranks(data):
    whole = numbers(open_at(data, batch_size=4).epoch(1))
    ranks = [numbers(open_at(data, batch_size=2, rank=rank, world_size=2).epoch(1)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    started = [numbers(open_at(data, batch_size=2, rank=rank, world_size=2).epoch(1, start=3)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*started, strict=True)] == whole[3:]


def open_rows(data, *, batch_size, drop_remainder=True, **ranks):
    section = DatasetSection(data_loader=DataLoaderSection(dataset_dir=str(data)), drop_remainder=drop_remainder, seed=7)
    return open_batches(section, batch_size=batch_size, row_length=LENGTH, vocab_size=100, seed=0, **ranks)


@pytest.mark.parametrize("start", [0, 2])
def test_every_second_row_for_every_second_rank_makes_the_same_global_batches(data, start):
    whole = numbers(open_rows(data, batch_size=4).epoch(1, start=start))
    ranks = [numbers(open_rows(data, batch_size=2, rank=rank, world_size=2, strided=True).epoch(1, start=start)) for rank in (0, 1)]
    assert [(a[0], b[0], a[1], b[1]) for a, b in zip(*ranks, strict=True)] == [tuple(batch) for batch in whole]


@pytest.mark.parametrize("strided", [False, True])
def test_parts_of_a_last_batch_may_be_uneven_or_missing_and_no_row_is_lost(data, strided):
    ranks = [
        numbers(open_rows(data, batch_size=4, rank=rank, world_size=5, drop_remainder=False, uneven=True, strided=strided).epoch(0))
        for rank in range(5)
    ]
    assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(ROWS))
    assert min(map(len, ranks)) < max(map(len, ranks)) or strided


def test_all_parts_are_read_whichever_is_named(tmp_path):
    write(tmp_path / "x.mindrecord", parts=3)
    for given in (tmp_path, tmp_path / "x.mindrecord", tmp_path / "x.mindrecord2"):
        rows = list(itertools.chain(*numbers(open_at(given, drop_remainder=False).epoch(0))))
        assert sorted(rows) == list(range(ROWS))


def test_only_the_first_rows_are_read_when_asked(data):
    rows = list(itertools.chain(*numbers(open_at(data, num_samples=8).epoch(0))))
    assert sorted(rows) == list(range(8))


def refusal(*args, **kwargs):
    with pytest.raises(CodeLlamaError) as caught:
        list(open_at(*args, **kwargs).epoch(0))
    return caught.value


def test_another_row_length_says_what_to_write_with_and_without_a_manifest(tmp_path, data):
    message = f"rows hold {LENGTH} ids, but seq_length 16 needs rows of 17. Fix: write model.model_config.seq_length: {LENGTH - 1}"
    assert message in str(refusal(data, row_length=17))
    assert message in str(refusal(write(tmp_path / "m.mindrecord", manifest=manifest_of()), row_length=17))


def test_ids_beyond_the_vocabulary_name_tokenizer_and_model(tmp_path, data):
    known = refusal(write(tmp_path / "m.mindrecord", manifest=manifest_of()), vocab_size=20)
    assert isinstance(known, TokenizerError)
    assert str(known).endswith(
        "m.mindrecord: holds the token id 22, but the model's vocabulary is 20 (model.model_config.vocab_size): the tokenizer my.model "
        "(100 pieces) it was made with and the model disagree. Fix: prepare the data with the model's own tokenizer, or use the model "
        "this tokenizer belongs to."
    )
    found = refusal(write(tmp_path / "n.mindrecord", top=50), vocab_size=50, drop_remainder=False)
    assert "holds the token id 50, but the model's vocabulary is 50 (model.model_config.vocab_size): the tokenizer it was made with" in str(
        found
    )


def test_missing_columns_empty_and_small_data_are_refused(tmp_path, data):
    only_ids = write(tmp_path / "i.mindrecord", columns=("input_ids",))
    assert "has no column 'labels'. Fix: its columns are input_ids" in str(refusal(only_ids))
    assert "has 23 rows, less than one batch of 24" in str(refusal(data, batch_size=24))
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(tmp_path / "e.mindrecord"))
    writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}}, "wiki")
    writer.commit()
    assert "the dataset is empty" in str(refusal(tmp_path / "e.mindrecord", input_columns=("input_ids",)))


def test_packed_data_needs_its_segments(tmp_path):
    packed = write(
        tmp_path / "p.mindrecord", columns=("input_ids", "labels", "segment_ids", "position_ids"), manifest=manifest_of(packed=True)
    )
    assert "is packed, but input_columns does not read segment_ids and position_ids" in str(refusal(packed))
    columns = ("input_ids", "labels", "segment_ids", "position_ids")
    assert set(next(open_at(packed, input_columns=columns).epoch(0))) == set(columns)


def test_missing_and_damaged_files_are_refused(tmp_path, data):
    assert "no such file or folder" in str(refusal(tmp_path / "none.mindrecord"))
    assert "holds no *.mindrecord file" in str(refusal(tmp_path))
    broken = write(tmp_path / "b.mindrecord")
    with broken.open("r+b") as file:
        file.truncate(broken.stat().st_size - 50)
    assert "is cut short" in str(refusal(broken))
    manifest = write(tmp_path / "m.mindrecord", manifest=manifest_of()).with_name("m.mindrecord.manifest.json")
    manifest.write_text("{")
    assert "is damaged" in str(refusal(tmp_path / "m.mindrecord"))


def test_unequal_rows_are_refused_where_they_are_met(tmp_path):
    def rows():
        for length in (LENGTH, LENGTH, LENGTH + 1, LENGTH):
            yield {"input_ids": np.ones(length, np.int32), "labels": np.ones(length, np.int32)}

    write_rows(tmp_path / "u.mindrecord", rows(), columns=["input_ids", "labels"], description="qa")
    assert isinstance(refusal(tmp_path / "u.mindrecord"), DataError)
    assert f"rows hold {LENGTH + 1} ids" in str(refusal(tmp_path / "u.mindrecord"))


def test_ranks_that_cannot_share_the_last_batch_are_refused(data):
    message = str(refusal(data, batch_size=2, world_size=2, drop_remainder=False))
    assert "23 rows do not divide into batches of 4 over 2 ranks. Fix: write drop_remainder: True" in message
