// The kernels for every processor; on x86-64 for its tests alone, with the instructions that all
// others need as well.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#endif
#define FEWER_LANES 4
#define FEWER_BF16 0
#define FEWER_INT8 0
#define FEWER_AMX 0
#define FEWER_ISA isa_generic
#include "isa.h"
