"""A strict stand-in for the package `mindspore_lite`: it refuses what the real one refuses, and computes, so that text comes out.

Each rule names where it is documented:

[context]  mindspore-lite/python/api/context.py, MindSpore Lite 2.7: class Context, _Ascend
[model]    mindspore-lite/python/api/model.py: class Model, ModelGroup, ModelType, ModelGroupFlag
[base]     mindspore/lite/python/api/base_model.py: class BaseModel
[tensor]   mindspore-lite/python/api/tensor.py: class Tensor, DataType
[check]    mindspore/lite/python/api/_checkparam.py: check_isinstance, check_list_of_element
[ge]       page "Ascend Backend GE Inference" and "Multiple Models Sharing Weights", lite/docs, mindir/runtime_python
[executor] ge_graph_executor.cc: GE compares what it is given with what it compiled
[group]    page mindspore_lite.ModelGroupFlag: SHARE_WEIGHT works with Ascend and the provider GE only

A name that the real classes do not have is refused (`__slots__`): real Python objects would take it and do nothing.
A graph is either a real MindIR, run by MindSpore on this machine, or a JSON file that describes a toy (`Toy`).
"""

from __future__ import annotations

import json
import os
import weakref
from enum import Enum

import numpy as np


def _check(name, value, kind):  # [check]
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {kind.__name__}, but got {type(value)}.")


class ModelType(Enum):  # [model]
    MINDIR = 0
    MINDIR_LITE = 4


class ModelGroupFlag(Enum):  # [model]
    SHARE_WEIGHT = 1
    SHARE_WORKSPACE = 2
    SHARE_WEIGHT_WORKSPACE = 3


class DataType(Enum):  # [tensor]
    UNKNOWN = 0
    BOOL = 30
    INT8 = 32
    INT16 = 33
    INT32 = 34
    INT64 = 35
    UINT8 = 37
    UINT16 = 38
    UINT32 = 39
    UINT64 = 40
    FLOAT16 = 42
    FLOAT32 = 43
    FLOAT64 = 44


_TYPES = {np.dtype(kind.name.lower()): kind for kind in DataType if kind is not DataType.UNKNOWN}


class _Ascend:
    """`context.ascend`; its setters are [context]."""

    __slots__ = ("_device_id", "_precision_mode", "_provider", "_rank_id")

    def __init__(self):
        self._device_id, self._rank_id, self._provider, self._precision_mode = 0, 0, "", "enforce_fp16"

    def _number(self, name, value):
        _check(f"ascend_{name}", value, int)
        if value < 0:
            raise ValueError(f"ascend_{name} must be a non-negative int.")
        setattr(self, f"_{name}", value)

    device_id = property(lambda self: self._device_id, lambda self, value: self._number("device_id", value))
    rank_id = property(lambda self: self._rank_id, lambda self, value: self._number("rank_id", value))

    @property
    def provider(self):
        return self._provider

    @provider.setter
    def provider(self, value):
        _check("ascend_provider", value, str)
        if value not in ("", "ge"):  # 'can be "" or "ge"' [context]
            raise ValueError(f"provider can be '' or 'ge', got {value!r}")
        self._provider = value

    @property
    def precision_mode(self):
        return self._precision_mode

    @precision_mode.setter
    def precision_mode(self, value):
        _check("ascend_precision_mode", value, str)
        if value not in ("enforce_fp32", "preferred_fp32", "enforce_fp16", "enforce_origin", "preferred_optimal"):
            raise ValueError(f"ascend_precision_mode got {value}")
        self._precision_mode = value


class Context:
    """[context]"""

    __slots__ = ("_group_info_file", "_target", "ascend")

    def __init__(self):
        self.ascend = _Ascend()
        self._target, self._group_info_file = ["cpu"], ""

    @property
    def target(self):
        return self._target

    @target.setter
    def target(self, value):
        if not isinstance(value, list):
            raise TypeError(f"target must be list, but got {type(value)}.")
        for each in value:
            _check("target element", each, str)
            if each.lower() not in ("cpu", "gpu", "ascend"):
                raise ValueError(f"target elements must be in ['cpu', 'gpu', 'ascend'], but got {each.lower()}.")
        self._target = value

    @property
    def group_info_file(self):
        return self._group_info_file

    @group_info_file.setter
    def group_info_file(self, value):
        _check("group_info_file", value, str)
        self._group_info_file = value


class Tensor:
    """[tensor], made from a numpy array or by a model."""

    __slots__ = ("_array", "_dtype", "_shape")

    def __init__(self, tensor=None, shape=None, dtype=None, device=None):
        if not isinstance(tensor, np.ndarray):
            raise TypeError(f"tensor must be MindSpore Lite's Tensor._tensor or numpy ndarray, but got {type(tensor)}.")
        if device is not None:
            raise AssertionError("device tensors are not part of this fake")
        if tensor.dtype not in _TYPES:  # bfloat16 is none of them
            raise TypeError(f"Unsupported numpy dtype value {tensor.dtype}")
        if shape is not None and list(shape) != list(tensor.shape):
            raise TypeError("user set shape is not equal numpy shape")
        if dtype is not None and dtype != _TYPES[tensor.dtype]:
            raise TypeError("user set dtype is not equal numpy dtype")
        self._array, self._shape, self._dtype = tensor, list(tensor.shape), _TYPES[tensor.dtype]

    @classmethod
    def _of(cls, dtype, shape):
        made = cls.__new__(cls)
        made._array, made._shape, made._dtype = None, list(shape), DataType[dtype.upper()]
        return made

    shape = property(lambda self: self._shape)
    dtype = property(lambda self: self._dtype)

    def get_data_to_numpy(self):
        """A view of the tensor's own memory, which the next `predict` overwrites."""
        return self._array

    def set_data_from_numpy(self, numpy_obj):
        _check("numpy_obj", numpy_obj, np.ndarray)
        if _TYPES.get(numpy_obj.dtype) != self.dtype:
            raise RuntimeError("data type not equal!")
        if numpy_obj.size != int(np.prod(self._shape)):
            raise RuntimeError("data size not equal!")
        self._array = numpy_obj


class ModelGroup:
    """[model]"""

    __slots__ = ("__weakref__", "_flags", "_models", "_variables")

    def __init__(self, flags=ModelGroupFlag.SHARE_WORKSPACE):
        if flags not in ModelGroupFlag:
            raise RuntimeError("Parameter flags should be a ModelGroupFlag")
        self._flags, self._models, self._variables = flags, [], {}

    def add_model(self, models):
        if not isinstance(models, (list, tuple)):
            raise TypeError(f"models must be list/tuple, but got {type(models)}")
        if not models:
            raise RuntimeError("models cannot be empty")
        for index, model in enumerate(models):
            if not isinstance(model, Model):
                raise TypeError(f"models element must be all str or Model, but got {type(model)} at index {index}.")
            if model._graph is not None:  # "models share weights" is said before they are built [ge]
                raise RuntimeError("ModelGroup's add model failed.")
            model._group = weakref.ref(self)
        self._models += models


class Model:
    """[model] and [base]"""

    __slots__ = ("_config", "_graph", "_group", "_provider", "_resized")

    def __init__(self):
        self._graph = self._group = None
        self._config, self._provider, self._resized = {}, "", None

    def build_from_file(
        self, model_path, model_type, context=None, config_path="", config_dict=None, dec_key=None, dec_mode="AES-GCM", dec_num_parallel=0
    ):
        _check("model_path", model_path, str)
        _check("model_type", model_type, ModelType)
        context = Context() if context is None else context
        _check("context", context, Context)
        _check("config_path", config_path, str)
        if not os.path.exists(model_path):
            raise RuntimeError("build_from_file failed, model_path does not exist!")
        if model_type is not ModelType.MINDIR or not model_path.endswith(".mindir"):  # "Model should use .mindir as suffix"
            raise RuntimeError("build_from_file failed! Error is a model of another type")
        if config_path and not os.path.exists(config_path):
            raise RuntimeError("build_from_file failed, config_path does not exist!")
        if self._graph is not None:
            raise RuntimeError("build_from_file failed! Error is built already")
        self._config = _read_config(config_path) if config_path else {}
        self._update(config_dict)
        if dec_key:
            _check("dec_key", dec_key, bytes)
            _check("dec_mode", dec_mode, str)
            _check("dec_num_parallel", dec_num_parallel, int)
            if dec_mode not in ("AES-GCM", "AES-CBC", "SM4-CBC") or not 0 <= dec_num_parallel <= 64:
                raise RuntimeError("dec_mode or dec_num_parallel")
        self._provider = context.ascend.provider
        self._require_place(context)
        group = self._living_group()
        shared = {} if group is None else group._variables
        self._graph = _open(model_path, shared, dec_key, dec_mode)
        self._require_ranks(context)

    def _living_group(self):
        group = None if self._group is None else self._group()
        if self._group is not None and group is None:  # the page's examples keep it while models are built [ge]
            raise RuntimeError("build_from_file failed! Error is the model group is gone")
        return group

    def _update(self, config_dict):
        if not config_dict:
            return
        _check("config_dict", config_dict, dict)
        for section, keys in config_dict.items():
            _check("config_dict_key", section, str)
            _check("config_dict_value", keys, dict)
            for key, value in keys.items():
                _check("config_dict_value_key", key, str)
                _check("config_dict_value_value", value, str)
                self._config.setdefault(section, {})[key] = value  # wins over the file [model]

    def _require_place(self, context):
        if not any(target.lower() == "ascend" for target in context.target):
            raise RuntimeError("build_from_file failed! Error is variables need GE")  # [ge]: only GE knows variables
        if self._provider != "ge" or self._config.get("ascend_context", {}).get("provider", "ge") != "ge":
            raise RuntimeError("build_from_file failed! Error is the model has variables, which ACL does not know")  # [ge]
        group = self._living_group()
        if group is not None and group._flags is not ModelGroupFlag.SHARE_WEIGHT:
            raise RuntimeError("build_from_file failed! Error is models as objects share weights only")  # [model] add_model

    def _require_ranks(self, context):
        table = self._config.get("ascend_context", {}).get("rank_table_file")
        if self._graph.collective and not table:  # without it distributed inference is off
            raise RuntimeError("build_from_file failed! Error is init hccl failed: no rank_table_file")
        if table:
            with open(table, encoding="utf-8") as file:
                devices = [device for server in json.load(file)["server_list"] for device in server["device"]]
            own = {int(device["rank_id"]): int(device["device_id"]) for device in devices}
            if own.get(context.ascend.rank_id) != context.ascend.device_id:
                raise RuntimeError("build_from_file failed! Error is rank and device are not in the rank table")

    def get_inputs(self):
        if self._graph is None:
            return []
        return [Tensor._of(dtype, shape) for dtype, shape in self._graph.inputs]

    def resize(self, inputs, dims):
        raise AssertionError("with the provider ge the shapes of the given tensors hold [model]: resize is not called")

    def predict(self, inputs, outputs=None):
        if not isinstance(inputs, (list, tuple)):
            raise TypeError(f"inputs must be list or tuple, but got {type(inputs)}.")
        if outputs is not None:
            raise AssertionError("outputs are not part of this fake")
        own = self.get_inputs()
        if len(own) != len(inputs):
            raise RuntimeError(f"model input len:{len(own)} not equal input len:{len(inputs)}!")
        arrays = []
        for given, wanted in zip(inputs, own, strict=True):
            if not isinstance(given, Tensor):
                raise TypeError("inputs element must be Tensor, of numpy.")
            same = len(given.shape) == len(wanted.shape) and all(w in (-1, g) for g, w in zip(given.shape, wanted.shape, strict=True))
            if given.dtype != wanted.dtype or not same or not given.get_data_to_numpy().flags["C_CONTIGUOUS"]:
                raise RuntimeError("predict failed!")  # [executor]; inputs go by position, so a wrong order ends here
            arrays.append(given.get_data_to_numpy())
        self._require_gear([array.shape for array in arrays])
        return [Tensor(self._graph.run(arrays))]

    def _require_gear(self, shapes):
        """GE has compiled the graph for the groups of ge.dynamicDims only (CANN, "options")."""
        options = self._config.get("ge_graph_options", {})
        if "ge.dynamicDims" not in options:
            return
        named = [part.split(":") for part in options["ge.inputShape"].split(";") if part]
        if options.get("ge.dynamicNodeType") != "1" or sorted(name for name, _ in named) != sorted(self._graph.names):
            raise RuntimeError("predict failed!")
        by_name = dict(zip(self._graph.names, shapes, strict=True))
        free = [by_name[name][index] for name, dims in named for index, dim in enumerate(dims.split(",")) if dim == "-1"]
        gears = [[int(size) for size in group.split(",")] for group in options["ge.dynamicDims"].split(";") if group]
        if free not in gears:
            raise RuntimeError("predict failed!")


def _read_config(path):
    found, section = {}, None
    with open(path, encoding="utf-8") as file:
        for line in map(str.strip, file):
            if line.startswith("["):
                section = found.setdefault(line.strip("[]"), {})
            elif line and not line.startswith("#"):
                key, value = line.split("=", 1)
                section[key] = value
    return found


def _open(path, shared, key, mode):
    with open(path, "rb") as file:
        toy = file.read(1) == b"{"
    return Toy(path, shared) if toy else MindIR(path, shared, key, mode)


class Toy:
    """A language model without arithmetic: the logits say which ids a row holds and where.

    Its cache holds ids; `toy_logits` of a whole row is what a caller must get, however the row was read.
    """

    def __init__(self, path, shared):
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        self.inputs = [(item["dtype"], [-1 if size is None else size for size in item["shape"]]) for item in values["inputs"]]
        self.names = [item["name"] for item in values["inputs"]]
        self.collective, self.vocab, self.seq = values["collective"], values["vocab"], values["seq"]
        self.salt = values["salt"]
        self.cache = shared.setdefault("cache", np.zeros((64, self.seq), np.int64))
        self.logits = None

    def run(self, arrays):
        given = dict(zip(self.names, arrays, strict=True))
        ids, lengths = given["input_ids"], given["batch_valid_length"]
        if "zactivate_len" in given:
            assert len(given["zactivate_len"]) >= lengths.max()
        slots = given.get("slot_mapping")
        first = lengths - 1 if ids.shape[1] == 1 else np.zeros_like(lengths)
        for row, length in enumerate(lengths):
            count = min(ids.shape[1], int(length))
            self.cache[row, first[row] : first[row] + count] = ids[row, :count]
            if slots is not None:  # every token has a place of its own, padding has none
                mine = slots.reshape(ids.shape)[row]
                assert (mine[:count] >= 16).all(), "block 0 belongs to nobody"
                assert (mine[count:] == -1).all()
        made = np.stack([toy_logits(self.cache[row, :length], self.vocab, self.salt) for row, length in enumerate(lengths)])
        if self.logits is None or self.logits.shape != made.shape:
            self.logits = made
        self.logits[:] = made  # the memory of the last call is used again
        return self.logits


def toy_logits(ids, vocab, salt):
    """float32 `(vocab,)` that depends on every id and its place."""
    state = salt
    for place, token in enumerate(ids):
        state = (state * 1103515245 + int(token) * 12345 + place) % 2147483647
    return np.random.default_rng(state).standard_normal(vocab).astype(np.float32)


class MindIR:
    """A real graph, run by MindSpore; names and types of its inputs are those of the file."""

    def __init__(self, path, shared, key, mode):
        import mindspore as ms
        from mindspore.train import mind_ir_pb2

        loaded = ms.load(path, **({"dec_key": key, "dec_mode": mode} if key else {}))
        self.shared = shared
        self.cell = ms.nn.GraphCell(loaded)
        kinds = {6: "int32", 7: "int64"}  # TensorProto.DataType of onnx and of mind_ir.proto
        proto = mind_ir_pb2.ModelProto()
        with open(path, "rb") as file:
            proto.ParseFromString(_decrypted(path, key, mode) if key else file.read())
        self.names = [item.name.rsplit(":", 1)[-1] for item in proto.graph.input]  # the loader drops the graph's name
        self.inputs = [(kinds[tensor.data_type], list(tensor.dims)) for item in proto.graph.input for tensor in item.tensor]
        self.collective = any("AllReduce" in node.op_type or "AllGather" in node.op_type for node in _nodes(proto))

    def run(self, arrays):
        import mindspore as ms

        parameters = {parameter.name: parameter for parameter in self.cell.get_parameters()}
        for name, value in self.shared.items():
            if name in parameters:
                parameters[name].set_data(value)
        made = self.cell(*[ms.Tensor(array) for array in arrays])
        made = made[0] if isinstance(made, tuple) else made
        self.shared.update({name: value.value().copy() for name, value in parameters.items() if "past" in name})
        return made.asnumpy()


def _decrypted(path, key, mode):
    from mindspore._c_expression import _decrypt

    return _decrypt(path, key, len(key), mode)


def _nodes(proto):
    yield from proto.graph.node
    for function in proto.functions:
        yield from function.node
