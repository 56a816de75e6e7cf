// The exported functions, and the instruction sets of this processor.
#include "exports.h"
#include "registry.h"

namespace isa_generic { extern const Kernels kernels; }

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <sys/syscall.h>
#include <unistd.h>

namespace isa_avx2 { extern const Kernels kernels; }
namespace isa_avx512 { extern const Kernels kernels; }
namespace isa_bf16 { extern const Kernels kernels; }
namespace isa_amx { extern const Kernels kernels; }
namespace isa_avx2_int8 { extern const Kernels kernels; }
namespace isa_vnni { extern const Kernels kernels; }
namespace isa_amx_int8 { extern const Kernels kernels; }

static const Kernels *TABLE[] = {&isa_generic::kernels, &isa_avx2::kernels, &isa_avx512::kernels, &isa_bf16::kernels,
                                 &isa_amx::kernels, &isa_avx2_int8::kernels, &isa_vnni::kernels, &isa_amx_int8::kernels};

// Linux enables the tile registers on request only.
static bool request_tiles() {
  const int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

static int64_t supported() {
  __builtin_cpu_init();
  int64_t isas = 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas |= 1 << GENERIC | 1 << AVX2 | 1 << AVX2_INT8;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    isas |= 1 << AVX512;
    if (__builtin_cpu_supports("avx512vnni")) isas |= 1 << AVX512_VNNI;
    if (__builtin_cpu_supports("avx512bf16")) {
      isas |= 1 << AVX512_BF16;
      unsigned a, b, c, d;
      __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
      const bool bf16 = d >> 22 & 1, tiles = d >> 24 & 1, int8 = d >> 25 & 1;
      if (tiles && (bf16 || int8) && request_tiles()) isas |= bf16 << AMX_BF16 | int8 << AMX_INT8;
    }
  }
  return isas;
}
#else
static const Kernels *TABLE[] = {&isa_generic::kernels, 0, 0, 0, 0, 0, 0, 0};
#if defined(__aarch64__)
static int64_t supported() { return 1 << GENERIC; }
#else  // not measured, where torch may have faster ones
static int64_t supported() { return 0; }
#endif
#endif

extern "C" {
int64_t fewer_supported() { return supported(); }
int64_t fewer_packed_bytes(int64_t n, int64_t k, int32_t isa) { return TABLE[isa]->packed_bytes(n, k); }
void fewer_pack(const float *weight, int64_t n, int64_t k, int32_t isa, void *out) {
  TABLE[isa]->pack(weight, n, k, out);
}
uint64_t fewer_sample(const char *const *tensors, const int64_t *bytes, int64_t count) {
  uint64_t hash = 1469598103934665603u;
  for (int64_t i = 0; i < count; i++)
    for (int64_t index = 0; index < 4; index++) {
      uint32_t word = 0;
      const int64_t size = bytes[i] < 4 ? bytes[i] : 4;
      __builtin_memcpy(&word, tensors[i] + (bytes[i] - size) / 3 * index, size);
      hash = (hash ^ word) * 1099511628211u;
    }
  return hash;
}
void fewer_linear(const LinearCall *call) { TABLE[call->isa]->linear(*call); }
void fewer_feed_forward(const FeedForwardCall *call) { TABLE[call->isa]->feed_forward(*call); }
void fewer_rotate(const RotateCall *call) { TABLE[call->isa]->rotate(*call); }
void fewer_attention(const AttentionCall *call) { TABLE[call->isa]->attention(*call); }
void fewer_judge(const BlockCnnCall *call) { TABLE[call->isa]->block_cnn(*call); }
void fewer_embed(const EmbedCall *call) { TABLE[call->isa]->embed(*call); }
}
