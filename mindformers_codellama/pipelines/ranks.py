"""The ranks that hold a model together for generation."""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.config.mindformers_api import LlamaConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ParallelConfigSection
from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.model.part import WHOLE, NetworkPart, network_part
from mindformers_codellama.parallel.comm import SINGLE, Comm, connect, connected, join


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This rank, and where the tensors of the model lie."""

    comm: Comm = SINGLE
    model_layout: ModelLayout | None = None
    """None when this process has the whole model."""
    strategy: str = ""
    """Strategy file or folder of weights in `rank_N` folders that do not describe themselves."""

    @property
    def agreement(self) -> Comm | None:
        """Whom to agree with; None on one rank."""
        return None if self.comm.is_alone else self.comm

    @property
    def part(self) -> NetworkPart:
        """What of the network is built here. A step reads one position, so positions are never cut."""
        return WHOLE if self.model_layout is None else network_part(self.model_layout, self.comm, sequence=False)


ONE = Ranks()
"""One process."""


def join_ranks(config: ModelConfig, layout: Layout, *, vocabulary_cut: bool, strategy: str = "") -> Ranks:
    """Join the job; one rank alone joins nothing.

    Raises:
        ConfigError: degrees that a model cannot generate with.
        ClusterError: this process is no rank, or the job has another number of ranks.
    """
    raise_all(degree_findings(config, layout))
    if layout.ranks == 1:
        return Ranks(strategy=strategy)
    model_layout = ModelLayout(config=config, layout=layout, vocabulary_cut=vocabulary_cut)
    return Ranks(comm=join(layout), model_layout=model_layout, strategy=strategy)


def ranks_of(config: LlamaConfig) -> Ranks:
    """The ranks a MindFormers configuration means: its degrees when `init_context(use_parallel=True)` joined a job, else one.

    Raises:
        ConfigError, ClusterError: as `join_ranks`; degrees whose product is not the number of ranks.
    """
    if not connected() or connect()[1] == 1:
        return ONE
    section: ParallelConfigSection = vars(config)["parallel_config"].section()
    layout = Layout(data_parallel=section.data_parallel, model_parallel=section.model_parallel, pipeline_stage=section.pipeline_stage)
    if layout.ranks == 1:
        layout = Layout(data_parallel=connect()[1])  # a script that sets no degrees: every rank is a copy
    return join_ranks(config.model_config(), layout, vocabulary_cut=not section.vocab_emb_dp)


def degree_findings(config: ModelConfig, layout: Layout) -> list[CodeLlamaError]:
    """What is wrong with the degrees of a model that generates."""
    found: list[CodeLlamaError] = []
    if layout.pipeline_stage > 1:
        problem = f"got {layout.pipeline_stage}, but generation has no pipeline."
        found.append(ConfigError("parallel_config.pipeline_stage", problem, fix="write 1 and raise model_parallel."))
    heads, inner, degree = config.num_kv_heads, config.intermediate_size, layout.model_parallel
    if heads % degree or inner % degree:
        possible = ", ".join(str(n) for n in range(1, heads + 1) if not (heads % n or inner % n))
        problem = f"got {degree}, must divide n_kv_heads ({heads}) and intermediate_size ({inner})."
        found.append(ConfigError("parallel_config.model_parallel", problem, fix=f"write one of {possible}."))
    return found
