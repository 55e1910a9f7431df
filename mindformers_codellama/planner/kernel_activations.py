"""Bytes of activations where the C++ kernels compute (`model.kernel_block`); letters as in `rank_work`, L sums of the softmax.

The residual stream, norms and sums are float32, what linears make for attention and the gate has the compute type. Kernels keep
no index tables. Normed rows and the gated product are made again in the backward pass, and logits exist in chunks.
"""

from __future__ import annotations

from mindformers_codellama.planner.rank_work import RankWork

FLOAT32 = 4
LOGIT_BYTES, FEWEST_TOKENS = 24 << 20, 64
"""Of a chunk of the head's loss (`csrc/op_head_loss.cpp`)."""
REMAKES_EVERY = {4: 3, 2: 1}
"""By bytes of the compute type: of so many blocks one makes the stream before its feed-forward again (`model.kernel_pass`)."""


def kernel_block_kept(work: RankWork) -> int:
    """The stream before attention and before the feed-forward 2 x 4 A, queries, keys, values and mixed values c (2 Q + 2 K),
    sums 4 L, and both halves of the gate 2 c F. Over ranks also two normed rows, float32: they have travelled.
    """
    stream = 2 * FLOAT32 * work.stream + (2 * FLOAT32 * work.gathered if work.degree > 1 else 0)
    attention = work.compute * 2 * (work.queries + work.keys) + FLOAT32 * work.sums
    return stream + attention + 2 * work.compute * work.inner


def kernel_blocks_kept(work: RankWork) -> int:
    """Of all blocks: without a graph some keep the stream once."""
    remade = -(-work.layers // REMAKES_EVERY[work.compute]) if work.by_hand else 0
    return work.layers * kernel_block_kept(work) - remade * FLOAT32 * work.stream


def kernel_block_working(work: RankWork) -> int:
    """In passing in the backward of a block: three c F of the gate, and five A of the stream and its branches. Without a graph
    gradients of the gate replace its inputs, and what is not needed any more is freed: one c F and three A.
    """
    if work.by_hand:
        return work.compute * work.inner + 3 * FLOAT32 * work.gathered
    return 3 * work.compute * work.inner + 5 * FLOAT32 * work.gathered


def head_scratch(work: RankWork) -> int:
    """A chunk of logits and its hidden states twice, while the head runs; nothing where another stage has it, or it is cut."""
    if not work.last or work.cuts_vocabulary:
        return 0
    vocabulary, width = _head(work)
    tokens = min(work.tokens, max(FEWEST_TOKENS, LOGIT_BYTES // FLOAT32 // vocabulary // 16 * 16))
    return FLOAT32 * tokens * vocabulary + work.compute * 2 * tokens * width


def kernel_head_kept(work: RankWork) -> int:
    """Stream before the last norm, hidden states and their gradient. A cut vocabulary is computed in plain operators from
    float32 logits, three of them.
    """
    if not work.last:
        return 0
    if work.cuts_vocabulary:
        return FLOAT32 * (work.stream + 2 * work.gathered + 3 * work.logits)
    return FLOAT32 * work.stream + 2 * work.compute * work.gathered + head_scratch(work)


def kernel_training_activations(work: RankWork) -> int:
    """The most a micro batch needs: what all blocks keep, the gradient of the head, which is there before any other, and the head
    or the working set of one block.
    """
    vocabulary, width = _head(work)
    head = 0 if not work.last or work.cuts_vocabulary else FLOAT32 * vocabulary * width
    return kernel_blocks_kept(work) + head + max(kernel_head_kept(work), kernel_block_working(work))


def kernel_forward_activations(work: RankWork) -> int:
    """The most an evaluation needs: one block, nothing being kept, or the head."""
    return max(kernel_block_kept(work), head_scratch(work)) + FLOAT32 * 2 * work.gathered


def _head(work: RankWork) -> tuple[int, int]:
    """V and D of this rank."""
    tokens = max(work.tokens, 1)
    return work.logits // tokens, work.gathered // tokens
