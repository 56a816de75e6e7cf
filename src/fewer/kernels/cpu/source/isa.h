// All kernels for one instruction set, in their own namespace. They must not use the C++ standard
// library: its inline functions, compiled here, could be called on processors without these
// instructions.
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <stddef.h>
#include <stdlib.h>

#include "abi.h"
#include "pool.h"
#include "registry.h"

namespace FEWER_ISA {
#include "simd.h"
//
#include "float_gemm.h"
#if FEWER_AMX
#include "tiles.h"
#endif
#if FEWER_INT8
#include "int8_gemm.h"
typedef Int8 Precision;
#elif FEWER_BF16
#include "bf16_gemm.h"
typedef Bf16 Precision;
#else
typedef Float Precision;
#endif
//
#if !FEWER_INT8
#include "relative.h"
#include "attention.h"
#include "block_cnn.h"
#endif
#include "layers.h"
#include "rotary.h"

static int64_t packed_bytes(int64_t n, int64_t k) {
  return round_up(n, COLUMNS) / COLUMNS * Precision::panel(k) * sizeof(Precision::Number);
}
static void pack(const float *weight, int64_t n, int64_t k, void *out) {
  Precision::pack(weight, n, k, (Precision::Number *)out);
}
#if FEWER_INT8  // attention runs in the kernels of another instruction set
extern const Kernels kernels = {packed_bytes, pack, linear<Precision>, feed_forward<Precision>,
                                rotate, 0, embed, 0};
#else
extern const Kernels kernels = {packed_bytes, pack, linear<Precision>, feed_forward<Precision>,
                                rotate, attention<Precision>, embed, block_cnn};
#endif
}  // namespace FEWER_ISA
