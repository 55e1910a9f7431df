"""A toy network and its exports, made once for the tests of one file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.export.request import ExportRequest, export_sizes
from mindformers_codellama.export.run import export_network
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.mindir.decoder import MindIRDecoder
from mindformers_codellama.mindir.graph_engine import GraphEngine
from mindformers_codellama.mindir.manifest import read_export_manifest, write_export_manifest
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.parallel.comm import SINGLE
from mindformers_codellama.runtime.context import enter_context

CONFIG = ModelConfig(
    vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48,
    seq_length=48, max_position=48, rope_theta=1e6,
)  # fmt: skip
CONTEXT = ContextSection(device_target="CPU")


def build(seed=1, config=CONFIG):
    """A network of plain operators with weights large enough that tokens differ."""
    enter_context(CONTEXT)
    choose_kernels("off")
    network = LlamaNetwork(config)
    init_parameters(network, seed, std=0.2)
    choose_kernels()
    return network


def weights(seed=1):
    return {name: one.asnumpy() for name, one in build(seed).parameters_and_names()}


def export(folder: Path, seed=1, config=CONFIG, **options):
    """Export a toy network; what was found in the comparison."""
    request = ExportRequest(folder=folder, stop_token_ids=(2,), **options)
    shapes = ModelLayout(config=config, layout=Layout(), vocabulary_cut=False).shapes
    sizes = export_sizes(config, shapes, request, 1)
    return export_network(lambda: build(seed, config), request, sizes=sizes, comm=SINGLE, context=CONTEXT)


def opened(folder: Path, **options):
    """An engine that is loaded, and the decoder over it."""
    engine = GraphEngine(folder, context=CONTEXT, **options)
    engine.load()
    return engine, MindIRDecoder(engine)


def rewrite(folder: Path, **changes):
    """A manifest with other facts and a checksum that fits, as one who knows the format could make it."""
    write_export_manifest(folder, dataclasses.replace(read_export_manifest(folder), **changes))
