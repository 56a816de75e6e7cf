// The functions that Python sees, and which instruction sets this processor has.
#include <stdint.h>

#include "abi.h"
#include "registry.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <sys/syscall.h>
#include <unistd.h>

namespace isa_avx2 { extern const Kernels kernels; }
namespace isa_avx512 { extern const Kernels kernels; }
namespace isa_bf16 { extern const Kernels kernels; }
namespace isa_amx { extern const Kernels kernels; }

static const Kernels *TABLE[] = {0, &isa_avx2::kernels, &isa_avx512::kernels, &isa_bf16::kernels,
                                 &isa_amx::kernels};

// Linux hands out the tile registers on request only.
static bool tiles_granted() {
  const int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

static int64_t supported() {
  __builtin_cpu_init();
  int64_t found = 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= 1 << AVX2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    found |= 1 << AVX512;
    if (__builtin_cpu_supports("avx512bf16")) {
      found |= 1 << AVX512_BF16;
      unsigned a, b, c, d;
      __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
      const bool amx = (d >> 22 & 1) && (d >> 24 & 1);  // amx-bf16, amx-tile
      if (amx && tiles_granted()) found |= 1 << AMX_BF16;
    }
  }
  return found;
}
#else
static const Kernels *TABLE[] = {0, 0, 0, 0, 0};
static int64_t supported() { return 0; }
#endif

#define FEWER_DOOR __attribute__((visibility("default")))

extern "C" {
// Bit i: instruction set i of `enum Isa` can be used.
FEWER_DOOR int64_t fewer_supported() { return supported(); }
FEWER_DOOR int64_t fewer_packed_bytes(int64_t n, int64_t k, int32_t isa) { return TABLE[isa]->packed_bytes(n, k); }
FEWER_DOOR void fewer_pack(const float *weight, int64_t n, int64_t k, int32_t isa, void *out) {
  TABLE[isa]->pack(weight, n, k, out);
}
// A number that changes when the tensors do, from four places of each: of `bytes[i]` bytes.
FEWER_DOOR uint64_t fewer_sample(const char *const *tensors, const int64_t *bytes, int64_t count) {
  uint64_t found = 1469598103934665603u;
  for (int64_t i = 0; i < count; i++)
    for (int64_t place = 0; place < 4; place++) {
      uint32_t word = 0;
      const int64_t size = bytes[i] < 4 ? bytes[i] : 4;
      __builtin_memcpy(&word, tensors[i] + (bytes[i] - size) / 3 * place, size);
      found = (found ^ word) * 1099511628211u;
    }
  return found;
}
FEWER_DOOR void fewer_linear(const LinearCall *call) { TABLE[call->isa]->linear(*call); }
FEWER_DOOR void fewer_feed_forward(const FeedForwardCall *call) { TABLE[call->isa]->feed_forward(*call); }
FEWER_DOOR void fewer_attention(const AttentionCall *call) { TABLE[call->isa]->attention(*call); }
FEWER_DOOR void fewer_judge(const JudgeCall *call) { TABLE[call->isa]->judge(*call); }
FEWER_DOOR void fewer_embed(const EmbedCall *call) { TABLE[call->isa]->embed(*call); }
}
