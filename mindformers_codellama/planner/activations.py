"""Bytes of activations of a micro batch: what the forward pass keeps for the backward, and what is needed in passing.

Letters as in `rank_work`: A residual stream, Q queries, K keys (and values), P scores, F inner, V logits; c, n, s, r bytes of
the compute, norm, softmax and rotary types. The lists follow the operators of `model` one by one, read off the compiled graph
of MindSpore 2.10 and confirmed by its memory pool on the CPU (docs/scaling.md). The idea of counting what each operator keeps
is that of arXiv 2205.05198, section 4, whose layer differs: no dropout here, a gated feed-forward, grouped keys.
"""

from __future__ import annotations

from mindformers_codellama.planner.kernel_activations import kernel_forward_activations, kernel_training_activations
from mindformers_codellama.planner.rank_work import RankWork


def norm_kept(work: RankWork) -> int:
    """One RMSNorm: its input c A (the stream itself), that in the norm's type n A when it differs, the normalised input n A
    (not with the fused operator), and what enters the matrices c B S D.
    """
    copies = (work.norm != work.compute) + (not work.facts.fuses_norm)
    return work.compute * work.stream + copies * work.norm * work.stream + work.compute * work.gathered


def attention_kept(work: RankWork) -> int:
    """Before the rotation r (Q + K) (the gradient of a slice takes its input), c (Q + 2 K) after it, the weights of the
    softmax s P (and c P when the types differ), and the mixed values c Q.
    """
    before = work.rotary * (work.queries + work.keys)
    after = work.compute * (work.queries + 2 * work.keys)
    weights = (work.softmax + (work.compute if work.compute != work.softmax else 0)) * work.scores
    return before + after + weights + work.compute * work.queries


def feed_forward_kept(work: RankWork) -> int:
    """w1 x, silu of it, w3 x and their product: 4 c F; and the sigmoid where silu is not one operator."""
    return (4 + work.facts.keeps_sigmoid) * work.compute * work.inner


def block_kept(work: RankWork) -> int:
    """Everything one block keeps: on the CPU in float32 `4 (6 A + 3 Q + 3 K + P + 5 F)` bytes."""
    return 2 * norm_kept(work) + attention_kept(work) + feed_forward_kept(work)


def recomputed_block_kept(work: RankWork) -> int:
    """What a block keeps with `recompute`: its input, when a rank has the layer alone.

    With `model_parallel` above 1 only Cells without communication compute again (`train.recompute`): the two norms, wq, wk,
    wv, w1 and w3. There the two inputs of the norms and what enters the matrices stay, and everything between the
    recomputed matrices: c (2 Q + 2 K), the softmax's P, and 2 (3) c F of the gated product.
    """
    if work.degree == 1:
        return work.compute * work.stream
    weights = (work.softmax + (work.compute if work.compute != work.softmax else 0)) * work.scores
    edges = 2 * work.compute * (work.stream + work.gathered)
    inner = (2 + work.facts.keeps_sigmoid) * work.compute * work.inner
    return edges + work.compute * (2 * work.queries + 2 * work.keys) + weights + inner


def block_working(work: RankWork) -> int:
    """Needed in passing by the backward of one block: two s P (gradient of the weights, and of the scores), or four c F,
    whichever is more, and three A.
    """
    scores = 2 * work.softmax * work.scores + 4 * work.compute * work.queries
    return max(scores, 4 * work.compute * work.inner) + 3 * work.norm * work.stream


def head_kept(work: RankWork) -> int:
    """Final norm, and on the way into the backward three float32 V: log-softmax, its gradient, and that of the logits.

    Confirmed by the pool at two vocabularies. A cut vocabulary has the shifted logits, their exponentials and the gradient.
    """
    return norm_kept(work) + 3 * 4 * work.logits if work.last else 0


def training_activations(work: RankWork) -> int:
    """The most a micro batch needs: what all blocks keep, and the head or the working set of one block, whichever is more.

    With recompute one block's own keepings come on top of every block's few.
    """
    if work.kernels:
        return kernel_training_activations(work)
    if work.recompute:
        kept = work.layers * recomputed_block_kept(work)
        return kept + max(head_kept(work), max(block_kept(work) - recomputed_block_kept(work), 0) + block_working(work))
    return work.layers * block_kept(work) + max(head_kept(work), block_working(work))


def forward_activations(work: RankWork, *, every_position: bool) -> int:
    """The most a forward pass alone needs: nothing is kept, so one block, or the head.

    A block: its input and the gathered norm, then either queries, keys and values with up to three P, or three F. The head
    makes logits of one position per row in generation, of every position in evaluation (float32: logits and log-softmax).
    """
    if work.kernels:
        return kernel_forward_activations(work)
    stream = work.compute * (work.stream + work.gathered) + work.norm * work.stream
    attention = work.compute * (3 * work.queries + 2 * work.keys) + (work.compute + 2 * work.softmax) * work.scores
    block = stream + max(attention, 3 * work.compute * work.inner)
    head = (work.compute + 8) * work.logits if work.last and every_position else 0
    return max(block, head)


def pipeline_boundary(work: RankWork, micro_steps: int) -> int:
    """Hidden states between stages: the inputs of the micro batches in flight (at most `stages - stage`), one output and one
    gradient under way; on all but the last stage also its product with the gradient in float32, three times A.

    Source: train/pipeline.py; the bound of arXiv 2104.04473, section 2.2.
    """
    if work.stages == 1:
        return 0
    in_flight = min(work.stages - work.stage, micro_steps)
    inputs = 0 if work.first else in_flight * work.boundary
    return inputs + 2 * work.boundary + (0 if work.last else 3 * 4 * work.stream)
