// The kernels for processors with avx512f,avx512bw,avx512vl,avx512dq,fma,avx512bf16,amx-tile,amx-int8.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512bf16,amx-tile,amx-int8")
#define FEWER_LANES 16
#define FEWER_BF16 1
#define FEWER_INT8 1
#define FEWER_AMX 1
#define FEWER_ISA isa_amx_int8
#include "isa.h"
#endif
