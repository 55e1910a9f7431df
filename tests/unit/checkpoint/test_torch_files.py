"""Files of torch.save read without torch, and pickles that try to run code. torch is the oracle."""

import builtins
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers_codellama.checkpoint.pickle_subset import read_pickle
from mindformers_codellama.checkpoint.torch_format import read_torch, read_torch_sharded
from mindformers_codellama.errors import CheckpointError, CodeLlamaError

torch = pytest.importorskip("torch", reason="torch writes the files these tests read")


def assert_reads_as(path, state):
    found = read_torch(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype == str(tensor.dtype).removeprefix("torch.")
        assert found[name].read().tobytes() == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def mixed_state():
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    return {
        "f32": base,
        "f16": base.half(),
        "bf16": base.bfloat16(),
        "shared": base[2:4],  # the same storage at an offset
        "transposed": base.t(),  # strides that are not contiguous
        "strided": base[:, ::2],
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "ids": torch.arange(7),
        "flag": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before-1.6"])
def test_every_kind_of_tensor_is_read(tmp_path, new_format):
    state = mixed_state()
    torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=new_format)
    assert_reads_as(tmp_path / "x.bin", state)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before-1.6"])
def test_state_dicts_and_parameters_of_modules_are_read(tmp_path, new_format):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), tmp_path / "x.bin", _use_new_zipfile_serialization=new_format)
    assert_reads_as(tmp_path / "x.bin", module.state_dict())
    parameters = dict(module.named_parameters())
    torch.save(parameters, tmp_path / "p.bin", _use_new_zipfile_serialization=new_format)
    assert_reads_as(tmp_path / "p.bin", {name: value.detach() for name, value in parameters.items()})


def test_tensors_nested_under_model_are_found(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "x.pt")
    assert list(read_torch(tmp_path / "x.pt")) == ["w"]


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(marker):
    command = f"touch {marker}"
    return {
        "os.system": Evil(os.system, command),
        "eval": Evil(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "exec": Evil(builtins.exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Evil(builtins.getattr, "text", "upper"),
        "nested in a list": [1, (2, {"deep": Evil(os.system, command)})],
        "as an argument": {"w": Evil(str, Evil(os.system, command))},
    }


@pytest.mark.parametrize("kind", list(attacks("")))
@pytest.mark.parametrize("form", ["zip", "before-1.6"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, kind, form):
    marker = tmp_path / "was-executed"
    payload = {"weight": torch.ones(2), "evil": attacks(marker)[kind]}
    torch.save(payload, tmp_path / "x.bin", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"refers to .*nothing was executed"):
        read_torch(tmp_path / "x.bin")
    assert not marker.exists()


def test_the_attack_is_a_real_one(tmp_path):
    """If Python's own unpickler does not run the payload, the test above proves nothing."""
    marker = tmp_path / "was-executed"
    pickle.loads(pickle.dumps(attacks(marker)["os.system"]))
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol_is_refused_alike(protocol):
    data = pickle.dumps({"x": Evil(os.system, "true")}, protocol=protocol)
    with pytest.raises(CheckpointError, match="nothing was executed"):
        read_pickle(io.BytesIO(data), "x", names={}, storage=lambda identity: None)


HAND_MADE = {
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "NEWOBJ": b"cos\nsystem\n(S'true'\nt\x81.",
    "calls a dict": b"}(tR.",
    "calls a method name": b"ccollections\nOrderedDict.fromkeys\n(t.",
    "BUILD on a name": b"ccollections\nOrderedDict\n}b.",
    "EXT1": b"\x82\x01.",
    "tuple as key": b"}(K\x01tK\x01s.",
    "computed name": b"X\x02\x00\x00\x00os}\x93.",
    "no end": b"}",
    "stack underflow": b"R.",
    "memo that was never filled": b"h\x05.",
    "huge memo index": b"}r\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("kind", list(HAND_MADE))
def test_hand_made_instruction_tricks_do_nothing(tmp_path, kind):
    """Instructions that torch.save never writes; the result is an error, or plain data without a tensor in it."""
    from mindformers_codellama.checkpoint.torch_format import _NAMES

    if kind == "huge memo index":  # harmless here: the memo is a dict, not an array of that length
        assert read_pickle(io.BytesIO(HAND_MADE[kind]), "x", names=_NAMES, storage=lambda identity: None) == {}
        return
    with pytest.raises(CheckpointError):
        read_pickle(io.BytesIO(HAND_MADE[kind]), "x", names=_NAMES, storage=lambda identity: None)


def test_cut_and_foreign_files_are_refused(tmp_path):
    torch.save(mixed_state(), tmp_path / "x.bin")
    data = (tmp_path / "x.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(data[:-100])
    (tmp_path / "text.bin").write_bytes(b"hello world, no tensors here")
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged or cut zip"):
        read_torch(tmp_path / "cut.bin")
    for name in ("text.bin", "empty.bin"):
        with pytest.raises(CheckpointError, match="not a torch file"):
            read_torch(tmp_path / name)


def test_an_old_file_cut_anywhere_in_its_bytes_is_refused(tmp_path):
    torch.save({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.bin").read_bytes()
    for cut in range(1, 2 * 8 + 5 * 4):  # both counts and both storages
        (tmp_path / "old.bin").write_bytes(data[:-cut])
        with pytest.raises(CheckpointError, match="cut short"):
            read_torch(tmp_path / "old.bin")


@pytest.fixture(scope="module", params=[True, False], ids=["zip", "before-1.6"])
def saved(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "x.bin"
    torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2).half()}, path, _use_new_zipfile_serialization=request.param)
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_give_an_error_of_ours_and_nothing_else(saved, places):
    data = bytearray(saved.read_bytes())
    for where, value in places:
        data[int(where * len(data))] = value
    damaged = saved.with_name("damaged.bin")
    damaged.write_bytes(data)
    try:
        for tensor in read_torch(damaged).values():
            tensor.read()
    except CodeLlamaError:
        pass


def test_a_compressed_archive_says_so(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as old, zipfile.ZipFile(tmp_path / "y.bin", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed after torch.save"):
        read_torch(tmp_path / "y.bin")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    class Beyond:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.zeros(4).storage(), 2, (4,), (1,), False, {})

    torch.save({"w": Beyond()}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="w: reaches beyond the end of its storage"):
        read_torch(tmp_path / "x.bin")


def test_an_expanded_view_is_refused_instead_of_filling_memory(tmp_path):
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="expanded view"):
        read_torch(tmp_path / "x.bin")


def test_a_file_without_a_state_dict_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="holds a list, not a state dict"):
        read_torch(tmp_path / "x.bin")


def test_shards_are_joined_by_their_index(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "m-1.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "m-2.bin")
    (tmp_path / "i.json").write_text('{"weight_map": {"a": "m-1.bin", "b": "m-2.bin"}}')
    found = read_torch_sharded(tmp_path / "i.json")
    np.testing.assert_array_equal(found["a"].read(), [1, 1])
    np.testing.assert_array_equal(found["b"].read(), [0, 0, 0])
