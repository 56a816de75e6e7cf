"""The arguments of the compiled kernels: the structs of `source/abi.h`, field by field."""

from __future__ import annotations

from ctypes import Structure, c_double, c_float, c_int32, c_int64, c_void_p

__all__ = [
    "AttentionStruct",
    "BlockCnnStruct",
    "EmbedStruct",
    "FeedForwardStruct",
    "KeepBlocksStruct",
    "LayBlocksStruct",
    "LayerStruct",
    "LayersStruct",
    "LinearStruct",
    "MergeStruct",
    "NormStruct",
    "PoolBlocksStruct",
    "QueriesStruct",
    "RotateStruct",
    "ScoreBlocksStruct",
    "WeightStruct",
]


class WeightStruct(Structure):
    """`Weight` of abi.h."""

    _fields_ = (
        ("packed", c_void_p),
        ("bias", c_void_p),
        ("scale", c_void_p),
        ("n", c_int64),
        ("k", c_int64),
    )


class NormStruct(Structure):
    """`Norm` of abi.h."""

    _fields_ = (
        ("gamma", c_void_p),
        ("beta", c_void_p),
        ("eps", c_double),
        ("rms", c_int32),
    )


class LinearStruct(Structure):
    """`LinearCall` of abi.h."""

    _fields_ = (
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("rows", c_int64),
        ("input_norm", NormStruct),
        ("weight", WeightStruct),
        ("factor", c_void_p),
        ("factor_stride", c_int64),
        ("residual", c_void_p),
        ("residual_stride", c_int64),
        ("norm", NormStruct),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("x_bf16", c_int32),
        ("out_bf16", c_int32),
        ("activation", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class FeedForwardStruct(Structure):
    """`FeedForwardCall` of abi.h."""

    _fields_ = (
        ("x", c_void_p),
        ("rows", c_int64),
        ("input_norm", NormStruct),
        ("up", WeightStruct),
        ("gate", WeightStruct),
        ("down", WeightStruct),
        ("norm", NormStruct),
        ("out", c_void_p),
        ("activation", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class RotateStruct(Structure):
    """`RotateCall` of abi.h."""

    _fields_ = (
        ("x", c_void_p),
        ("stride", c_int64),
        ("rows", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("position", c_void_p),
        ("bf16", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class AttentionStruct(Structure):
    """`AttentionCall` of abi.h."""

    _fields_ = (
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("q_stride", c_int64),
        ("k_stride", c_int64),
        ("v_stride", c_int64),
        ("cu_q", c_void_p),
        ("cu_k", c_void_p),
        ("texts", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("position_q", c_void_p),
        ("position_k", c_void_p),
        ("window", c_int64),
        ("exempt", c_void_p),
        ("bucket", c_void_p),
        ("reach", c_int64),
        ("position_keys", c_void_p),
        ("position_queries", c_void_p),
        ("bucket_bias", c_void_p),
        ("bias", c_void_p),
        ("query_weight", c_void_p),
        ("received", c_void_p),
        ("logsumexp", c_void_p),
        ("out", c_void_p),
        ("bf16", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class EmbedStruct(Structure):
    """`EmbedCall` of abi.h."""

    _fields_ = (
        ("words", c_void_p),
        ("segments", c_void_p),
        ("positions", c_void_p),
        ("word", c_void_p),
        ("segment", c_void_p),
        ("position", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("norm", NormStruct),
        ("out", c_void_p),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class BlockCnnStruct(Structure):
    """`BlockCnnCall` of abi.h."""

    _fields_ = (
        ("q", c_void_p),
        ("k", c_void_p),
        ("q_stride", c_int64),
        ("k_stride", c_int64),
        ("logsumexp", c_void_p),
        ("participation", c_void_p),
        ("rows", c_void_p),
        ("pairs", c_void_p),
        ("blocks", c_int64),
        ("maps", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("size", c_int64),
        ("first", c_void_p),
        ("first_bias", c_void_p),
        ("second", c_void_p),
        ("second_bias", c_void_p),
        ("last", c_void_p),
        ("last_bias", c_void_p),
        ("out", c_void_p),
        ("bf16", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class MergeStruct(Structure):
    """`MergeCall` of abi.h."""

    _fields_ = (
        ("hidden", c_void_p),
        ("scores", c_void_p),
        ("keep", c_void_p),
        ("spared", c_void_p),
        ("cu", c_void_p),
        ("texts", c_int64),
        ("width", c_int64),
        ("least", c_float),
        ("kept", c_void_p),
        ("states", c_void_p),
    )


class LayBlocksStruct(Structure):
    """`LayBlocksCall` of abi.h."""

    _fields_ = (
        ("slot", c_void_p),
        ("spared", c_void_p),
        ("cu", c_void_p),
        ("texts", c_int64),
        ("columns", c_int64),
        ("size", c_int64),
        ("number", c_void_p),
        ("text", c_void_p),
        ("index", c_void_p),
        ("prunable", c_void_p),
        ("prunable_number", c_void_p),
        ("prunable_text", c_void_p),
        ("passage", c_void_p),
        ("place", c_void_p),
        ("passage_cu", c_void_p),
        ("question", c_void_p),
        ("question_cu", c_void_p),
        ("counts", c_void_p),
    )


class PoolBlocksStruct(Structure):
    """`PoolBlocksCall` of abi.h."""

    _fields_ = (
        ("features", c_void_p),
        ("place", c_void_p),
        ("number", c_void_p),
        ("text", c_void_p),
        ("steps", c_void_p),
        ("tokens", c_int64),
        ("width", c_int64),
        ("blocks", c_int64),
        ("near", c_int64),
        ("out", c_void_p),
    )


class ScoreBlocksStruct(Structure):
    """`ScoreBlocksCall` of abi.h."""

    _fields_ = (
        ("hidden", c_void_p),
        ("norm", NormStruct),
        ("passage_map", WeightStruct),
        ("question_map", WeightStruct),
        ("context_map", WeightStruct),
        ("inner_map", WeightStruct),
        ("last_map", WeightStruct),
        ("passage", c_void_p),
        ("passage_cu", c_void_p),
        ("question", c_void_p),
        ("question_cu", c_void_p),
        ("texts", c_int64),
        ("passages", c_int64),
        ("questions", c_int64),
        ("heads", c_int64),
        ("size", c_int64),
        ("hints", c_void_p),
        ("hint_width", c_int64),
        ("place", c_void_p),
        ("number", c_void_p),
        ("text", c_void_p),
        ("steps", c_void_p),
        ("blocks", c_int64),
        ("near", c_int64),
        ("scratch", c_void_p),
        ("logits", c_void_p),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class KeepBlocksStruct(Structure):
    """`KeepBlocksCall` of abi.h."""

    _fields_ = (
        ("logits", c_void_p),
        ("chance", c_void_p),
        ("block", c_void_p),
        ("text", c_void_p),
        ("index", c_void_p),
        ("scored", c_int64),
        ("blocks", c_int64),
        ("tokens", c_int64),
        ("threshold", c_float),
        ("scratch", c_void_p),
        ("keep", c_void_p),
        ("odds", c_void_p),
    )


class LayerStruct(Structure):
    """`Layer` of abi.h."""

    _fields_ = (
        ("attention_norm", NormStruct),
        ("output_norm", NormStruct),
        ("input_norm", NormStruct),
        ("last_norm", NormStruct),
        ("project", WeightStruct),
        ("project_queries", WeightStruct),
        ("project_rest", WeightStruct),
        ("output", WeightStruct),
        ("up", WeightStruct),
        ("gate", WeightStruct),
        ("down", WeightStruct),
        ("heads", c_int64),
        ("bucket", c_void_p),
        ("reach", c_int64),
        ("position_keys", c_void_p),
        ("position_queries", c_void_p),
        ("bucket_bias", c_void_p),
        ("window", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("rotates_values", c_int32),
        ("activation", c_int32),
        ("isa", c_int32),
        ("project_isa", c_int32),
        ("output_isa", c_int32),
        ("feed_forward_isa", c_int32),
        ("attention_isa", c_int32),
    )


class QueriesStruct(Structure):
    """`Queries` of abi.h."""

    _fields_ = (
        ("x", c_void_p),
        ("rows", c_int64),
        ("cu", c_void_p),
        ("column", c_void_p),
        ("position", c_void_p),
    )


class LayersStruct(Structure):
    """`LayersCall` of abi.h."""

    _fields_ = (
        ("layers", c_void_p),
        ("count", c_int64),
        ("x", c_void_p),
        ("rows", c_int64),
        ("texts", c_int64),
        ("group", c_int64),
        ("cu", c_void_p),
        ("column", c_void_p),
        ("position", c_void_p),
        ("queries", QueriesStruct),
        ("projected", c_void_p),
        ("context", c_void_p),
        ("attended", c_void_p),
        ("out", c_void_p),
        ("received", c_void_p),
        ("bf16", c_int32),
        ("threads", c_int32),
    )
