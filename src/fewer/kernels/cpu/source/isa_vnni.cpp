// The kernels for processors with avx512f,avx512bw,avx512vl,avx512dq,fma,avx512vnni.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,avx512vnni")
#define FEWER_LANES 16
#define FEWER_BF16 0
#define FEWER_INT8 1
#define FEWER_AMX 0
#define FEWER_ISA isa_vnni
#include "isa.h"
#endif
