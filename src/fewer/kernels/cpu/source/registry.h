// The kernels of one instruction set.
#pragma once
#include "abi.h"

struct Kernels {
  int64_t (*packed_bytes)(int64_t n, int64_t k);
  void (*pack)(const float *weight, int64_t n, int64_t k, void *out);
  void (*linear)(const LinearCall &);
  void (*feed_forward)(const FeedForwardCall &);
  void (*rotate)(const RotateCall &);
  void (*attention)(const AttentionCall &);
  void (*embed)(const EmbedCall &);
  void (*block_cnn)(const BlockCnnCall &);
};
