"""Rank tables and disks for the doctor's tests."""

from collections import namedtuple

from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.cluster.rank_table_make import make_rank_table
from mindformers_codellama.cluster.rank_table_merge import merge_rank_tables

Usage = namedtuple("Usage", "total used free")
"""What `shutil.disk_usage` gives."""


def a_table(*hosts: str) -> RankTable:
    """A table of two devices on each host."""
    return merge_rank_tables([make_rank_table(host, range(2), {0: f"10.9.{n}.1", 1: f"10.9.{n}.2"}) for n, host in enumerate(hosts)])
