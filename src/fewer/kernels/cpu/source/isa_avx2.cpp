// The kernels for processors with avx2,fma.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#define FEWER_LANES 8
#define FEWER_BF16 0
#define FEWER_INT8 0
#define FEWER_AMX 0
#define FEWER_ISA isa_avx2
#include "isa.h"
#endif
