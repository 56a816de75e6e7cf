// What the library exports; library.py calls it by name.
#pragma once
#include <stdint.h>

#include "abi.h"

#define FEWER_EXPORT __attribute__((visibility("default")))

extern "C" {
// Bit i: instruction set i of `enum Isa` can be used.
FEWER_EXPORT int64_t fewer_supported();
FEWER_EXPORT int64_t fewer_packed_bytes(int64_t n, int64_t k, int32_t isa);
FEWER_EXPORT void fewer_pack(const float *weight, int64_t n, int64_t k, int32_t isa, void *out);
// A hash of four words of each tensor, which has `bytes[i]` bytes.
FEWER_EXPORT uint64_t fewer_sample(const char *const *tensors, const int64_t *bytes, int64_t count);
FEWER_EXPORT void fewer_linear(const struct LinearCall *call);
FEWER_EXPORT void fewer_feed_forward(const struct FeedForwardCall *call);
FEWER_EXPORT void fewer_rotate(const struct RotateCall *call);
FEWER_EXPORT void fewer_attention(const struct AttentionCall *call);
FEWER_EXPORT void fewer_judge(const struct BlockCnnCall *call);
FEWER_EXPORT void fewer_embed(const struct EmbedCall *call);
FEWER_EXPORT void fewer_merge(const struct MergeCall *call);
FEWER_EXPORT void fewer_lay_blocks(const struct LayBlocksCall *call);
FEWER_EXPORT void fewer_pool_blocks(const struct PoolBlocksCall *call);
FEWER_EXPORT void fewer_score_blocks(const struct ScoreBlocksCall *call);
FEWER_EXPORT void fewer_keep_blocks(const struct KeepBlocksCall *call);
FEWER_EXPORT void fewer_layers(const struct LayersCall *call);
// Let GNU OpenMP start the threads from now on: the address of its GOMP_parallel.
FEWER_EXPORT void fewer_start_by_openmp(void *region);
}
