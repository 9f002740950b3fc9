"""Places that no command reaches, each with the reason."""

from __future__ import annotations

from error_table.definition import Internal

PYTHON = "a call from Python; the commands give it what it expects"
GRAPH = "a graph that only a mistake in an importer or a pass, or a changed file, can hold"
FORMAT = "one of the rules of the .bstm; tests/runtime/test_model_file.py breaks each of them"
INSTALLED = "an installation that has lost its own files"
TRACED = "a torch module, which no command takes; tests/bestdeploy/importers/test_traced.py does"
TVM = "another release of TVM; tests/bestdeploy/emit/test_tvm.py pretends to have one"

INTERNAL: tuple[Internal, ...] = (
    # the same integers everywhere
    Internal("_export.py:_Check._compare", "", "an engine computes wrong, which no input makes it"),
    # calls from Python
    Internal("runtime.py:Model._checked", "", PYTHON),
    Internal("runtime.py:Model._one_frame", "", PYTHON),
    Internal("runtime.py:_cannot_load", "", "`library=` of runtime.load, no option gives one"),
    Internal(
        "onnxruntime.py:register",
        "",
        "needs an onnxruntime before 1.17; tests/e2e/test_onnxruntime_matrix.py runs one",
    ),
    Internal("toolchain/builds.py:build_program", "", PYTHON),
    Internal("ops/definition.py:Op.op_type", "", "importers check T first"),
    Internal("emit/tvm/build.py:check_versions", "backend `tvm` needs {}=={}, found", TVM),
    Internal("emit/tvm/build.py:canary", "", TVM),
    Internal("emit/tvm/build.py:object_of", "", "a TVM whose LLVM lacks the machine"),
    Internal(
        "_device.py:open_device", "`{}` holds a module", "a machine without cross C libraries"
    ),
    Internal("importers/traced/tracer.py:Tracer.__init__", "", TRACED),
    Internal("importers/traced/tracer.py:Tracer.refuse", "", TRACED),
    Internal("importers/traced/tracer.py:Tracer._numbers", "", TRACED),
    Internal("importers/traced/layers.py:_trained_bits", "", TRACED),
    Internal("importers/traced/weights.py:_weight_bits", "", TRACED),
    # graphs
    Internal("ir.py:Builder.initializer", "", GRAPH),
    Internal("ir.py:add_initializer", "", GRAPH),
    Internal("ir.py:array_of", "", GRAPH),
    Internal("ir.py:set_constant", "", GRAPH),
    Internal("ir.py:shape_of", "", GRAPH),
    Internal("stages.py:infer_types.look", "", GRAPH),
    Internal("lower.py:_Lowering.__init__", "", GRAPH),
    Internal("lower.py:_counted_stream.add", "", GRAPH),
    Internal("lower.py:_per_position", "", GRAPH),
    Internal("emit/floating.py:_Floating.get", "", GRAPH),
    Internal("emit/floating.py:_Floating.conv", "", GRAPH),
    Internal("passes/integer_readout.py:_source", "", GRAPH),
    Internal("passes/integer_readout.py:_stream", "", GRAPH),
    Internal("passes/integer_readout.py:_features", "", GRAPH),
    Internal("passes/integer_readout.py:_match", "", GRAPH),
    Internal("passes/integer_readout.py:_counted_readout", "", GRAPH),
    Internal("passes/integer_stem.py:_pixels", "", GRAPH),
    Internal("passes/integer_stream.py:fixed", "", GRAPH),
    Internal("passes/binarise.py:apply", "", "importers refuse weights without a sign first"),
    Internal("passes/fold_batchnorm.py:apply", "", "float32 values do not leave float64"),
    Internal("passes/integer_stem.py:quantise_channel", "", "F is lowered until the weight fits"),
    Internal(
        "importers/bestformer.py:_Importer._check_geometry",
        "heads of",
        "needs a checkpoint with more than 1,024 channels per head",
    ),
    Internal(
        "importers/weighted.py:WeightedNetwork._check_heads",
        "heads of",
        "needs a checkpoint with more than 1,024 channels per head",
    ),
    Internal("passes/quantise.py:_affine_of", "", GRAPH),
    Internal("passes/integer_stream.py:gain_and_shift", "", "bounds of the stream refuse it first"),
    Internal("passes/level_thresholds.py:_of_products", "", "1,024 x 1,024 x 4^3 is an int32"),
    Internal("passes/quantise.py:_check", "", "needs a layer of 65,536 weights of 16 bits"),
    Internal("passes/integer_products.py:apply", "", "importers check the scale first"),
    Internal("lower.py:_level_read_out", "", GRAPH),
    # files
    Internal("program/op_table.py:require", "", FORMAT),
    Internal("program/op_table.py:_Checked.require", "", FORMAT),
    Internal("program/op_table.py:_Checked.constant", "", FORMAT),
    Internal("program/op_table.py:_look_up", "", FORMAT),
    Internal("program/records.py:Constant.of", "", FORMAT),
    Internal("program/records.py:Constant.of_signs", "", FORMAT),
    Internal("program/records.py:Constant.of_weights", "", FORMAT),
    Internal("emit/bstm.py:_decode", "", FORMAT),
    # the machine
    Internal("emit/c.py:_Amalgamation._include", "", INSTALLED),
    Internal("emit/c.py:_read", "", INSTALLED),
    Internal("toolchain/packages.py:_template", "", INSTALLED),
    Internal("toolchain/sources.py:find_sources", "", INSTALLED),
    Internal(
        "toolchain/cache.py:cache_folder", "{} belongs", "needs a folder of another user in /tmp"
    ),
)
