"""Names that `lite.ini` may hold, as data.

Sources: MindSpore Lite 2.7 (`src/common/common.h`, `ge_graph_executor.cc`, "Ascend Conversion Tool Description"), CANN
(`ge_api_types.h`, "options" of the graph interface), MindFormers 1.0's pages.
"""

from __future__ import annotations

from collections.abc import Mapping

SECTIONS = tuple(
    """
    ascend_context ge_global_options ge_session_options ge_graph_options graph_kernel_param execution_plan model_file
    common_context acl_init_options acl_build_options aoe_global_options aoe_tuning_options
    """.split()
)
"""Sections of MindSpore Lite that concern a model on Ascend."""

ASCEND_CONTEXT = tuple(
    """
    provider rank_table_file plugin_custom_ops parameter_as_refdata precision_mode op_select_impl_mode input_format
    input_shape dynamic_dims output_type max_batch_size max_seq_length kvcache_input_layout
    fusion_switch_config_file_path insert_op_config_file_path mixprecision_list_path custom_fusion_pattern op_attrs
    enable_custom_op aoe_mode profiling_config_file dump_config_file dump_model_name ge_variable_memory_max_size
    ge_graph_memory_max_size model_cache_dir model_cache_mode variable_weights_list
    """.split()
)
"""Keys of `[ascend_context]`."""

GE_OPTIONS = tuple(
    """
    ge.inputShape ge.dynamicDims ge.dynamicNodeType ge.externalWeight ge.graphRunMode ge.deterministic ge.event
    ge.exec.formatMode ge.exec.precision_mode ge.exec.precision_mode_v2 ge.exec.modify_mixlist
    ge.exec.op_precision_mode ge.exec.allow_hf32 ge.exec.atomicCleanPolicy ge.exec.staticMemoryPolicy
    ge.exec.memoryOptimizationPolicy ge.exec.deviceId ge.exec.device_id ge.session_device_id ge.exec.rankTableFile
    ge.exec.rankId ge.exec.exclude_engines ge.exec.reuseZeroCopyMemory
    ge.exec.inputReuseMemIndexes ge.exec.outputReuseMemIndexes ge.exec.enableCopyOutputAddr
    ge.exec.enableDumpDebug ge.exec.dumpDebugMode ge.exec.dynamicInput ge.exec.dynamicGraphExecuteMode ge.exec.dataInputsShapeRange
    ge.exec.graphExecTimeout ge.exec.enableDump ge.exec.dumpMode ge.exec.dumpPath ge.exec.dumpStep
    ge.exec.profilingMode ge.exec.profilingOptions ge.exec.disableReuseMemory ge.exec.opWaitTimeout
    ge.exec.opExecuteTimeout ge.graphMemoryMaxSize ge.variableMemoryMaxSize ge.featureBaseRefreshable
    ge.constLifecycle ge.hardwareInfo ge.graph_compiler_cache_dir ge.graph_key ge.op_compiler_cache_dir
    ge.op_compiler_cache_mode ge.debugDir ge.opSelectImplmode ge.optypelistForImplmode ge.fusionSwitchFile
    ge.insertOpFile ge.outputDatatype ge.jit_compile ge.streamNum ge.streamMaxParallelNum ge.enableSingleStream
    ge.hcomParallel ge.fusionTensorSize ge.aicoreNum ge.socVersion ge.virtual_type ge.engineType ge.bufferOptimize
    ge.enableSmallChannel ge.enableCompressWeight ge.enableSparseMatrixWeight ge.compressionOptimizeConf
    ge.customizeDtypes ge.opDebugLevel ge.status_check ge.disableOptimizations ge.enableGraphParallel
    ge.graphParallelOptionPath ge.shape_generalized_build_mode ge.enablePrintOpPass ge.trainFlag ge.runFlag
    ge.dynamicBatchSize ge.dynamicImageSize ge.tiling_schedule_optimize ge.quant_bias_optimize ge.quant_dumpable
    ge.screen_print_mode ge.optionNameMap ge.oo.level ge.topoSortingMode op_debug_config stream_sync_timeout
    event_sync_timeout
    """.split()
)
"""Options of GE, which take effect in the section they stand in: for the process, the session or the graph."""

PLUGIN_CUSTOM_OPS = tuple(
    """
    All None FlashAttention LayerNormV3 GeGluV2 GroupNormSilu FFN AddLayerNorm MatMulAllReduce BatchMatmulToMatmul
    """.split()
)
"""Values of `plugin_custom_ops`."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "parameter_as_refdata": ("none", "variable", "all"),
    "precision_mode": ("enforce_fp32", "preferred_fp32", "enforce_fp16", "enforce_origin", "preferred_optimal"),
    "op_select_impl_mode": ("high_performance", "high_precision"),
    "input_format": ("NCHW", "NHWC", "ND"),
    "kvcache_input_layout": ("BNSD", "BSH"),
    "ge.exec.formatMode": ("0", "1"),
    "ge.exec.precision_mode": (
        *("force_fp32", "force_fp16", "allow_fp32_to_fp16", "must_keep_origin_dtype", "allow_mix_precision"),
        *("allow_mix_precision_fp16", "allow_mix_precision_bf16", "cube_fp16in_fp32out"),
    ),
    "ge.exec.atomicCleanPolicy": ("0", "1"),
    "ge.externalWeight": ("0", "1", "2"),
    "ge.dynamicNodeType": ("0", "1"),
}
"""Keys that take only these values."""
