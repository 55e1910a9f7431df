"""Five training steps beside the real MindFormers: losses, weights, and checkpoints resumed in both directions.

MindFormers' LlamaForCausalLM, learning rate schedule, parameter groups and AdamW run through
nn.TrainOneStepCell on the CPU (its own MFTrainOneStepCell needs an NPU operator). MindFormers 1.9 no longer
has FP32StateAdamWeightDecay; its stand-in is nn.AdamWeightDecay, which the class inherited from in 1.0 and
which is the same for float32 weights.

Bounds: 2e-6 on losses of about 4 and on weights up to 1, a few float32 roundings of the same formulas in another
order; the broken run below differs by more than a hundred times that.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.resume import find_resume_point, restore
from mindformers_codellama.train.save import CheckpointFolder
from mindformers_codellama.train.schedule import Schedule
from mindformers_codellama.train.state import RunFacts, SavedState, TrainState
from mindformers_codellama.train.step import TrainStep

pytestmark = pytest.mark.mindformers
pytest.importorskip("mindformers", reason="needs the [mindformers] extra")

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "seq_length": 16, "intermediate_size": 48}
STEPS, STOP, DECAY, BOUND = 5, 3, 0.1, 2e-6
RATE = {"learning_rate": 1e-3, "warmup_steps": 2, "total_steps": STEPS}
BETAS = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
FACTS = RunFacts(
    rows=STEPS, batch_size=2, micro_steps=1, row_length=17, seed=0, shuffle=False, columns=("input_ids",), data="", optimizer="AdamW"
)
KINDS = ["AdamW", "FP32StateAdamWeightDecay"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindFormers writes ./output/log
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def make_batches():
    rng = np.random.default_rng(6)
    rows = rng.integers(3, 61, (STEPS, 2, 17)).astype(np.int32)
    rows[:, 0, 12:] = 0  # padding
    return [{"input_ids": batch} for batch in rows]


def our_network():
    network = LlamaNetwork(ModelConfig(**SIZES, num_kv_heads=2, max_position=16, rope_theta=1e6))
    init_parameters(network, 3)
    return network


class Theirs:
    """MindFormers' network and optimizer in MindSpore's step, from our initial weights."""

    def __init__(self, kind):
        from mindformers.core.lr import CosineWithWarmUpLR
        from mindformers.core.optim import AdamW
        from mindformers.models.llama import LlamaConfig, LlamaForCausalLM
        from mindformers.trainer.optimizer_grouped_parameters import get_optimizer_grouped_parameters

        types = dict.fromkeys(("compute_dtype", "softmax_compute_type", "rotary_dtype", "param_init_type"), "float32")
        form = {"use_rope_slice": True, "fused_rms_norm": False, "use_flash_attention": False}
        self.network = LlamaForCausalLM(LlamaConfig(batch_size=2, n_kv_heads=2, theta=1e6, **SIZES, **types, **form))
        initial = our_network().parameters_dict()
        for parameter in self.network.get_parameters():
            parameter.set_data(ms.Tensor(initial[parameter.name].asnumpy()))
        schedule = CosineWithWarmUpLR(**RATE)
        groups = get_optimizer_grouped_parameters(self.network, DECAY, schedule)
        if kind == "AdamW":
            optimizer = AdamW(groups, schedule, betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY)
        else:
            optimizer = nn.AdamWeightDecay(groups, schedule, **BETAS, weight_decay=DECAY)
        self.step = nn.TrainOneStepCell(self.network, optimizer)
        self.step.set_train()

    def run(self, batches):
        return [float(self.step(ms.Tensor(batch["input_ids"])).asnumpy().mean()) for batch in batches]

    def weights(self):
        return {parameter.name: parameter.asnumpy().copy() for parameter in self.network.get_parameters()}


class Ours:
    def __init__(self, kind, **change):
        self.network = our_network()
        settings = AdamSettings(type=kind, **BETAS, weight_decay=DECAY)
        self.update = AdamUpdate(self.network.trainable_params(), settings)
        self.schedule = Schedule(**{"type": "CosineWithWarmUpLR"} | RATE | change)
        self.state = TrainState(scale=LossScale(value=1.0))
        self.step = TrainStep(TrainingLoss(self.network), self.update, columns=("input_ids",))

    def run(self, batches):
        losses = []
        for batch in batches:
            updates = self.state.updates
            result = self.step([batch], updates=updates, learning_rate=self.schedule(updates), scale=self.state.scale)
            self.state = self.state.after(loss=result.loss, overflow=result.overflow, epoch_ends=False)
            losses.append(result.loss)
        return losses

    def weights(self):
        return {parameter.name: parameter.asnumpy().copy() for parameter in self.network.get_parameters()}


def distance(ours, theirs):
    losses = np.abs(np.array(ours[0]) - np.array(theirs[0])).max()
    assert ours[1].keys() == theirs[1].keys()
    return max(losses, *(np.abs(ours[1][name] - theirs[1][name]).max() for name in theirs[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_five_steps_give_mindformers_losses_and_weights(kind):
    theirs, ours = Theirs(kind), Ours(kind)
    expected = (theirs.run(make_batches()), theirs.weights())
    assert distance((ours.run(make_batches()), ours.weights()), expected) < BOUND
    broken = Ours(kind, warmup_steps=3)
    assert distance((broken.run(make_batches()), broken.weights()), expected) > 100 * BOUND


@pytest.mark.parametrize("kind", KINDS)
def test_their_checkpoint_is_resumed_by_us(kind, tmp_path):
    theirs, batches = Theirs(kind), make_batches()
    theirs.run(batches[:STOP])
    path = tmp_path / "checkpoint" / "rank_0" / "llama_rank_0-1_3.ckpt"
    path.parent.mkdir(parents=True)
    ms.save_checkpoint(theirs.step, str(path), append_dict={"epoch_num": 1, "step_num": STOP, "loss_scale": 1.0})
    expected = (theirs.run(batches[STOP:]), theirs.weights())
    ours = Ours(kind)
    point = find_resume_point(tmp_path)
    ours.state = restore(point, ours.network, ours.update, facts=FACTS, scale=LossScale(value=1.0))
    assert (point.path, ours.state.step, ours.state.updates) == (path, STOP, STOP)
    assert distance((ours.run(batches[STOP:]), ours.weights()), expected) < BOUND


@pytest.mark.parametrize("kind", KINDS)
def test_our_checkpoint_is_resumed_by_them(kind, tmp_path):
    from mindformers_codellama.config.sections import CheckpointMonitor

    ours, batches = Ours(kind), make_batches()
    ours.run(batches[:STOP])
    path = CheckpointFolder(tmp_path, CheckpointMonitor(prefix="t")).save(ours.update, SavedState(state=ours.state, facts=FACTS), (1, STOP))
    expected = (ours.run(batches[STOP:]), ours.weights())
    theirs = Theirs(kind)
    values = ms.load_checkpoint(str(path), crc_check=True)
    missing, unused = ms.load_param_into_net(theirs.step, values)
    assert missing == []
    assert set(unused) <= {"epoch_num", "step_num", "loss_scale", "scale_sense", "codellama_train_state"}
    assert distance((theirs.run(batches[STOP:]), theirs.weights()), expected) < BOUND
