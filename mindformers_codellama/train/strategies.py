"""Strategy files of a run: `output_dir/strategy/ckpt_strategy_rank_N.ckpt`, which MindSpore's and MindFormers' tools read."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from mindformers_codellama.config.check import require_runnable
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.cuts import ModelLayout, run_layout, run_model_layout
from mindformers_codellama.layout.strategy_files import write_strategy
from mindformers_codellama.parallel.agreement import together
from mindformers_codellama.parallel.comm import Comm, join
from mindformers_codellama.runtime.context import enter_context

logger = logging.getLogger(__name__)


def strategy_folder(run: RunConfig) -> Path:
    """Where the strategy files of a run go."""
    return Path(run.output_dir).expanduser() / "strategy"


def save_strategy(run: RunConfig, comm: Comm, model_layout: ModelLayout) -> None:
    """Write the file of this rank; one process has none. Files of ranks that an earlier layout had more are removed.

    Raises:
        CheckpointError: it cannot be written.
    """
    if comm.is_alone:
        return
    folder, ranks = strategy_folder(run), comm.layout.ranks
    base = Path(run.parallel.strategy_ckpt_save_file).stem or "ckpt_strategy"

    def write() -> None:
        write_strategy(folder / f"{base}_rank_{comm.rank}.ckpt", model_layout, comm.rank)
        for path in folder.glob(f"{base}_rank_*.ckpt"):
            number = re.fullmatch(re.escape(base) + r"_rank_(\d+)\.ckpt", path.name)
            if number and int(number[1]) >= ranks and int(number[1]) % ranks == comm.rank:
                logger.warning("removed %s: this layout (%s) has no such rank", path, comm.layout)
                path.unlink(missing_ok=True)

    together(comm, write, doing="writing strategy files", slow=True)


def save_strategies_only(run: RunConfig) -> int:
    """`only_save_strategy: True`: write the files without training or reading anything; the rank of this process.

    Raises:
        ConfigError, ClusterError: a configuration that cannot run, or ranks that do not come together.
        CheckpointError: a file cannot be written.
    """
    require_runnable(run)
    enter_context(run.context)
    layout = run_layout(run)
    comm = join(layout)
    save_strategy(run, comm, run_model_layout(run, layout))
    if comm.is_alone:
        logger.warning("only_save_strategy: one process has no strategy; nothing was written.")
    return comm.rank
