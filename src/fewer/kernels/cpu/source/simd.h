// One vector of floats and what the kernels do with it. Included inside a namespace per instruction
// set, after the includes; FEWER_LANES is 4 (any processor), 8 (AVX2) or 16 (AVX-512).
//
// If an operand is NaN, the maximum and minimum instructions return the second operand. Where x may
// be NaN it must be second, so that NaN reaches the output.

#if FEWER_LANES == 16
typedef __m512 V;
enum { LANES = 16, ROWS = 14, COLUMNS = 32 };
static inline V load(const float *p) { return _mm512_loadu_ps(p); }
static inline void store(float *p, V x) { _mm512_storeu_ps(p, x); }
static inline V all(float x) { return _mm512_set1_ps(x); }
static inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V greater(V a, V b) { return _mm512_max_ps(a, b); }
static inline V smaller(V a, V b) { return _mm512_min_ps(a, b); }
static inline V rounded(V x) { return _mm512_roundscale_ps(x, 8); }
static inline V scaled_by_power(V x, V n) { return _mm512_scalef_ps(x, n); }
static inline V in_range_of_powers(V x) { return x; }
static inline V where_negative(V x, V a, V b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), b, a);
}
static inline V absolute(V x) { return _mm512_abs_ps(x); }
static inline float sum(V x) { return _mm512_reduce_add_ps(x); }
static inline float maximum(V x) { return _mm512_reduce_max_ps(x); }
static inline __mmask16 first(long n) { return n >= 16 ? 0xffff : n > 0 ? (1u << n) - 1 : 0; }
// The first n lanes of p (none if n is negative), the others `rest`.
static inline V load_first(const float *p, long n, float rest) {
  return _mm512_mask_loadu_ps(all(rest), first(n), p);
}
static inline void store_first(float *p, V x, long n) { _mm512_mask_storeu_ps(p, first(n), x); }
typedef uint16_t Half;  // a bf16
static inline V load_half(const Half *p, long n) {
  const __m256i x = _mm256_maskz_loadu_epi16(first(n), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
#if FEWER_BF16
static inline __m256i narrowed(V x) { return (__m256i)_mm512_cvtneps_pbh(x); }
#else  // the same, for processors without AVX512_BF16: to the nearest, ties to even
static inline __m256i narrowed(V x) {
  const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i half = _mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000)), 16);
  return _mm512_maskz_cvtepi32_epi16(0xffff, half);
}
#endif
template <bool WHOLE>
static inline void store_half(Half *p, V x, long n) {
  if (WHOLE) return _mm256_storeu_si256((__m256i *)p, narrowed(x));
  _mm256_mask_storeu_epi16(p, first(n), narrowed(x));
}
static inline __m512i pairs(const void *p) { return _mm512_loadu_si512(p); }

// 16 x 16 numbers of 32 bits, transposed.
static void transpose(const char *from, long stride_bytes, long rows, char *to, long to_bytes) {
  __m512i r[16], s[16];
  for (int i = 0; i < 16; i++)
    r[i] = i < rows ? pairs(from + i * stride_bytes) : _mm512_setzero_si512();
  for (int i = 0; i < 16; i += 2) {
    s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    s[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    s[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    s[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    s[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(s[i + 4], s[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(s[i + 4], s[i + 12], 0xdd);
  }
  for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + i * to_bytes, r[i]);
}
#elif FEWER_LANES == 8
typedef __m256 V;
enum { LANES = 8, ROWS = 6, COLUMNS = 16 };
static inline V load(const float *p) { return _mm256_loadu_ps(p); }
static inline void store(float *p, V x) { _mm256_storeu_ps(p, x); }
static inline V all(float x) { return _mm256_set1_ps(x); }
static inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V greater(V a, V b) { return _mm256_max_ps(a, b); }
static inline V smaller(V a, V b) { return _mm256_min_ps(a, b); }
static inline V rounded(V x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline V in_range_of_powers(V x) { return smaller(all(127.0f), greater(all(-127.0f), x)); }
static inline V scaled_by_power(V x, V n) {  // n in [-127, 127]; -127 gives 0
  __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return x * _mm256_castsi256_ps(bits);
}
static inline V where_negative(V x, V a, V b) { return _mm256_blendv_ps(b, a, x); }
static inline V absolute(V x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
static inline float sum(V x) {
  float lane[8];
  _mm256_storeu_ps(lane, x);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}
static inline float maximum(V x) {
  float lane[8], maximum;
  _mm256_storeu_ps(lane, x);
  maximum = lane[0];
  for (int i = 1; i < 8; i++) maximum = lane[i] > maximum ? lane[i] : maximum;
  return maximum;
}
static inline V load_first(const float *p, long n, float rest) {
  float lane[8];
  for (int i = 0; i < 8; i++) lane[i] = i < n ? p[i] : rest;
  return _mm256_loadu_ps(lane);
}
static inline void store_first(float *p, V x, long n) {
  float lane[8];
  _mm256_storeu_ps(lane, x);
  for (int i = 0; i < 8 && i < n; i++) p[i] = lane[i];
}
#else
#include "generic.h"
#endif

static inline V zero() { return all(0.0f); }

// All lanes, or the first n, which is slower.
template <bool WHOLE>
static inline V load_some(const float *p, long n, float rest) {
  return WHOLE ? load(p) : load_first(p, n, rest);
}
template <bool WHOLE>
static inline void store_some(float *p, V x, long n) {
  if (WHOLE) return store(p, x);
  store_first(p, x, n);
}

// 2^x by a polynomial on [-0.5, 0.5]; far below -126 it is 0.
template <class Polynomial>
static inline V exp2_by(V x, const Polynomial &polynomial) {
  x = in_range_of_powers(x);
  const V n = rounded(x);
  return scaled_by_power(polynomial(x - n), n);
}

// To 6e-8, relative. Minimax.
static inline V exp2_of(V x) {
  return exp2_by(x, [](V r) {
    V p = fma(all(1.328366243e-3f), r, all(9.677166955e-3f));
    p = fma(p, r, all(5.55066933e-2f));
    p = fma(p, r, all(2.402209475e-1f));
    p = fma(p, r, all(6.931470461e-1f));
    p = fma(p, r, all(1.0f));
    return p;
  });
}

// To 8e-5, for results that are rounded to bf16 anyway.
static inline V exp2_coarse(V x) {
  return exp2_by(x, [](V r) {
    V p = fma(all(5.517167e-2f), r, all(2.4261112e-1f));
    p = fma(p, r, all(6.9326099e-1f));
    return fma(p, r, all(9.9992807e-1f));
  });
}

static const float LOG2_E = 1.44269504088896340736f;

// GELU by erfc(z) = t (a1 + t (a2 + ...)) exp(-z^2), t = 1 / (1 + 0.3275911 z): 1e-7 (Abramowitz and
// Stegun 7.1.26).
static inline V gelu(V x) {
  V z = absolute(x) * all(0.70710678118654752f);
  V t = all(1.0f) / fma(z, all(0.3275911f), all(1.0f));
  V p = fma(all(1.061405429f), t, all(-1.453152027f));
  p = fma(p, t, all(1.421413741f));
  p = fma(p, t, all(-0.284496736f));
  p = fma(p, t, all(0.254829592f));
  V tail = all(0.5f) * p * t * exp2_of(z * z * all(-LOG2_E));  // P(normal < -|x|)
  return x * where_negative(x, tail, all(1.0f) - tail);
}

// GELU to 8e-5, for results that are rounded to bf16 anyway: an odd minimax polynomial for the
// normal distribution up to 4.2, where it is made to reach 1.
static inline V gelu_coarse(V x) {
  V u = greater(smaller(x, all(4.2f)), all(-4.2f));
  V t = u * u * all(1.0f / 17.64f);
  V p = fma(all(-0.479278765f), t, all(2.39272951f));
  p = fma(p, t, all(-5.18892229f));
  p = fma(p, t, all(6.47685663f));
  p = fma(p, t, all(-5.21821854f));
  p = fma(p, t, all(2.89333345f));
  p = fma(p, t, all(-1.15591827f));
  p = fma(p, t, all(0.3984659f));
  return x * fma(u, p, all(0.5f));
}

static inline V logistic(V x) { return all(1.0f) / (all(1.0f) + exp2_of(x * all(-LOG2_E))); }

static inline V hyperbolic_tangent(V x) { return fma(all(2.0f), logistic(x + x), all(-1.0f)); }

template <int ACTIVATION, bool COARSE>
static inline V activated(V x) {
  if (ACTIVATION == GELU) return COARSE ? gelu_coarse(x) : gelu(x);
  if (ACTIVATION == GELU_TANH) {
    V inner = x * fma(x * x, all(0.044715f), all(1.0f));
    return x * logistic(inner * all(1.5957691216057308f));  // 2 sqrt(2 / pi)
  }
  if (ACTIVATION == RELU) return greater(zero(), x);
  if (ACTIVATION == SILU) return x * logistic(x);
  if (ACTIVATION == TANH) return hyperbolic_tangent(x);
  return x;
}

// Memory of one thread, reused by its next call and freed with the thread.
struct Scratch {
  char *start;
  size_t size;
  ~Scratch() { free(start); }
};
static inline void *scratch(Scratch *memory, size_t bytes) {
  if (memory->size < bytes) {
    free(memory->start);
    memory->size = (bytes + 4095) & ~(size_t)4095;
    memory->start = (char *)aligned_alloc(4096, memory->size);
    if (!memory->start) abort();
  }
  return memory->start;
}

static inline long round_up(long x, long to) { return (x + to - 1) / to * to; }
static inline long at_most(long a, long b) { return a < b ? a : b; }

// A distance of rows for n numbers each. Rows a whole number of pages apart share the lines of one set
// of the nearest cache, which has fewer than a tile has rows: they are moved a line on.
template <class Number>
static inline long apart(long n) {
  const long size = sizeof(Number);
  return n * size % 4096 ? n : n + 64 / size;
}

// LayerNorm or RMS norm of a row; out may be x.
template <bool WHOLE>
static void normalize_by(const float *x, float *out, long width, const Norm &norm) {
  enum { STEP = 2 * LANES };  // two sums at a time: one would wait for itself
  V total[2] = {zero(), zero()}, square[2] = {zero(), zero()};
  if (!norm.rms)
    for (long j = 0; j < width; j += STEP)
      for (int side = 0; side < 2; side++)
        total[side] += load_some<WHOLE>(x + j + side * LANES, width - j - side * LANES, 0.0f);
  const float mean = sum(total[0] + total[1]) / (float)width;
  for (long j = 0; j < width; j += STEP)
    for (int side = 0; side < 2; side++) {
      const V y = load_some<WHOLE>(x + j + side * LANES, width - j - side * LANES, mean) - all(mean);
      square[side] = fma(y, y, square[side]);
    }
  const float scale = 1.0f / __builtin_sqrtf(sum(square[0] + square[1]) / (float)width + (float)norm.eps);
  for (long j = 0; j < width; j += LANES) {
    const long n = width - j;
    const V y = (load_some<WHOLE>(x + j, n, 0.0f) - all(mean)) * all(scale);
    const V shift = norm.beta ? load_some<WHOLE>(norm.beta + j, n, 0.0f) : zero();
    store_some<WHOLE>(out + j, fma(y, load_some<WHOLE>(norm.gamma + j, n, 0.0f), shift), n);
  }
}
static void normalize(const float *x, float *out, long width, const Norm &norm) {
  if (width % (2 * LANES)) return normalize_by<false>(x, out, width, norm);
  normalize_by<true>(x, out, width, norm);
}

// Results of a product in fp32, rows of COLUMNS: of(j) is a column of vectors, of(j)(i) that of row i.
struct Results {
  const float *c;
  struct Vectors {
    const float *c;
    inline V operator()(long i) const { return load(c + i * COLUMNS); }
  };
  inline Vectors of(long j) const { return {c + j}; }
};
