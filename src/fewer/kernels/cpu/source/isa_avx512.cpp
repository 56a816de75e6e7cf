// The kernels for processors with avx512f,avx512bw,avx512vl,avx512dq,fma.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define FEWER_LANES 16
#define FEWER_BF16 0
#define FEWER_INT8 0
#define FEWER_AMX 0
#define FEWER_ISA isa_avx512
#include "isa.h"
#endif
