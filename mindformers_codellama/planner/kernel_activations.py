"""Bytes of activations where the C++ kernels compute (`model.kernel_block`); letters as in `rank_work`, L sums of the softmax.

The residual stream, norms and sums are float32, what linears make for attention and the gate has the compute type. Kernels keep
no index tables. Normed rows and the gated product are made again in the backward pass, and logits exist in chunks.
"""

from __future__ import annotations

from mindformers_codellama.planner.rank_work import RankWork

FLOAT32 = 4
LOGIT_BYTES, FEWEST_TOKENS = 32 << 20, 64
"""Of a chunk of the head's loss (`csrc/op_head_loss.cpp`)."""


def kernel_block_kept(work: RankWork) -> int:
    """The stream before attention and before the feed-forward 2 x 4 A, queries, keys, values and mixed values c (2 Q + 2 K),
    sums 4 L, and both halves of the gate 2 c F. Over ranks also two normed rows, float32: they have travelled.
    """
    stream = 2 * FLOAT32 * work.stream + (2 * FLOAT32 * work.gathered if work.degree > 1 else 0)
    attention = work.compute * 2 * (work.queries + work.keys) + FLOAT32 * work.sums
    return stream + attention + 2 * work.compute * work.inner


def kernel_block_working(work: RankWork) -> int:
    """In passing in the backward of a block: three c F of the gate, and five A of the stream and its branches."""
    return 3 * work.compute * work.inner + 5 * FLOAT32 * work.gathered


def head_scratch(work: RankWork) -> int:
    """A chunk of logits, its hidden states twice, and the head packed for products; they stay for the next step."""
    vocabulary, width = _head(work)
    tokens = min(work.tokens, max(FEWEST_TOKENS, LOGIT_BYTES // FLOAT32 // vocabulary // 16 * 16))
    return FLOAT32 * tokens * vocabulary + work.compute * (2 * tokens * width + vocabulary * width)


def kernel_head_kept(work: RankWork) -> int:
    """Stream before the last norm, hidden states and their gradient, and the gradient of the head, which is there before any
    other. A cut vocabulary is computed in plain operators from float32 logits, three of them.
    """
    if not work.last:
        return 0
    if work.cuts_vocabulary:
        return FLOAT32 * (work.stream + 2 * work.gathered + 3 * work.logits)
    vocabulary, width = _head(work)
    return FLOAT32 * work.stream + 2 * work.compute * work.gathered + FLOAT32 * vocabulary * width


def kernel_training_activations(work: RankWork) -> int:
    """The most a micro batch needs: what all blocks keep, and the head or the working set of one block."""
    return work.layers * kernel_block_kept(work) + max(kernel_head_kept(work), kernel_block_working(work))


def kernel_forward_activations(work: RankWork) -> int:
    """The most an evaluation needs: one block, nothing being kept."""
    return kernel_block_kept(work) + FLOAT32 * 2 * work.gathered


def _head(work: RankWork) -> tuple[int, int]:
    """V and D of this rank."""
    tokens = max(work.tokens, 1)
    return work.logits // tokens, work.gathered // tokens
