"""The context: what is set, what is refused."""

import mindspore as ms
import pytest

from mindformers_codellama.config.mindformers_api import ContextConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.errors import ClusterError, CodeLlamaError, ConfigError, EnvironmentFault
from mindformers_codellama.parallel.start import init_context
from mindformers_codellama.runtime.context import current_device, enter_context


@pytest.fixture(autouse=True)
def restore_mode():
    before = ms.get_context("mode")
    yield
    ms.set_context(mode=before)


@pytest.mark.parametrize("config", [{"device_target": "CPU", "mode": 0}, ContextConfig(device_target="CPU", mode="GRAPH_MODE")])
def test_init_context_takes_mappings_and_objects_and_may_be_called_again(config):
    for _ in range(2):
        assert init_context(use_parallel=False, context_config=config, parallel_config={"parallel_mode": 1}) == (0, 1)
    assert current_device() == "CPU"
    assert ms.get_context("mode") == ms.GRAPH_MODE


def test_mode_1_is_pynative():
    enter_context(ContextSection(device_target="CPU", mode=1))
    assert ms.get_context("mode") == ms.PYNATIVE_MODE


def test_parallel_running_is_refused_in_one_process():
    with pytest.raises(ClusterError, match=r"use_parallel: True needs several ranks, .* Fix: start it with `codellama launch` .*False"):
        init_context(True, {"device_target": "CPU"}, {"parallel_mode": 1})


def test_searching_for_degrees_is_refused():
    with pytest.raises(ConfigError, match=r"parallel.parallel_mode: got 2, but degrees are not searched for"):
        init_context(True, {"device_target": "CPU"}, {"parallel_mode": "auto_parallel"})


def test_an_unknown_key_is_refused():
    with pytest.raises(CodeLlamaError, match="device_targ"):
        init_context(context_config={"device_targ": "CPU"})


def test_a_gpu_is_refused():
    with pytest.raises(CodeLlamaError, match="GPU"):
        init_context(context_config={"device_target": "GPU"})


def test_a_device_this_machine_lacks_is_refused_with_what_to_write():
    with pytest.raises(EnvironmentFault, match=r"Ascend cannot be used by this process: .* Fix: write context.device_target: CPU"):
        enter_context(ContextSection(device_target="Ascend"))
