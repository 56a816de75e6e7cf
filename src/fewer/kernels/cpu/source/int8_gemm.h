// Matrix products of 8-bit integers. Weights come as signed integers with a scale per output; each row
// of x is quantised here to unsigned ones, x = (q - zero) scale, over the range of that row. Sums of 32
// bits are exact, so an output depends on its row and the weights alone, whatever the order.
//
// AVX512_VNNI multiplies unsigned by signed bytes. AVX2 has no such product that cannot saturate:
// there, numbers are kept in 16 bits.
//
// Packed weights: panels of COLUMNS columns, each the sums of the columns, with which `zero` is taken
// off, and [k / GROUP][COLUMNS][GROUP]; k is filled up with zeros.

// Not __m512i: GCC keeps arrays of types that may alias others in memory.
typedef int32_t Sums __attribute__((vector_size(4 * LANES)));

#if FEWER_LANES == 16
typedef uint8_t Quantised;
enum { GROUP = 4, HEADER = 4 * COLUMNS, TILE_ROWS = 14 };
static inline Sums sums(const void *p) { return (Sums)_mm512_loadu_si512(p); }
static inline Sums group(const Quantised *p) {
  int32_t numbers;
  __builtin_memcpy(&numbers, p, 4);
  return (Sums)_mm512_set1_epi32(numbers);
}
static inline Sums multiply_add(Sums total, Sums x, Sums weights) {
  return (Sums)_mm512_dpbusd_epi32((__m512i)total, (__m512i)x, (__m512i)weights);
}
static inline V converted(Sums x) { return _mm512_cvtepi32_ps((__m512i)x); }
static inline void store_quantised(Quantised *to, V x, int32_t zero) {
  const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(zero));
  _mm_storeu_si128((__m128i *)to, _mm512_maskz_cvtusepi32_epi8(0xffff, q));
}
static inline float minimum(V x) { return _mm512_reduce_min_ps(x); }

// Rounded to the nearest bf16, ties to even, as AVX512_BF16 does, which not every VNNI processor has.
template <bool WHOLE>
static inline void store_half(Half *p, V x, long n) {
  const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i half = _mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000)), 16);
  const __m256i narrow = _mm512_maskz_cvtepi32_epi16(0xffff, half);
  if (WHOLE) return _mm256_storeu_si256((__m256i *)p, narrow);
  _mm256_mask_storeu_epi16(p, first(n), narrow);
}
#else
typedef int16_t Quantised;
enum { GROUP = 2, HEADER = 2 * COLUMNS, TILE_ROWS = 6 };
static inline Sums sums(const void *p) { return (Sums)_mm256_loadu_si256((const __m256i *)p); }
static inline Sums group(const Quantised *p) {
  int32_t numbers;
  __builtin_memcpy(&numbers, p, 4);
  return (Sums)_mm256_set1_epi32(numbers);
}
static inline Sums multiply_add(Sums total, Sums x, Sums weights) {
  return total + (Sums)_mm256_madd_epi16((__m256i)x, (__m256i)weights);
}
static inline V converted(Sums x) { return _mm256_cvtepi32_ps((__m256i)x); }
static inline float minimum(V x) { return -maximum(-x); }
static inline void store_quantised(Quantised *to, V x, int32_t zero) {
  const __m256i sum = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(zero));
  const __m256i q = _mm256_min_epi32(sum, _mm256_set1_epi32(255));
  _mm_storeu_si128((__m128i *)to,
                   _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1)));
}
#endif

// The end of a row of an operand.
struct RowScale {
  float scale;
  int32_t zero;
};
static inline RowScale scale_of(const Quantised *row, long pitch) {
  RowScale scale;
  __builtin_memcpy(&scale, row + pitch - sizeof scale / sizeof(Quantised), sizeof scale);
  return scale;
}

// c (M, COLUMNS) = a (M rows of `pitch` numbers) x panel, times the scales of rows and columns.
template <int M>
static void int8_tile(const Quantised *a, long pitch, const Quantised *panel, long k, V scale_low,
                      V scale_high, float *c) {
  enum { LINE = GROUP * LANES };
  Sums low[M], high[M];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    const int32_t zero = scale_of(a + i * pitch, pitch).zero;
    low[i] = sums(panel) * -zero;
    high[i] = sums(panel + HEADER / 2) * -zero;
  }
  const Quantised *b = panel + HEADER;
  for (long step = 0; step < k; step += GROUP) {
    const Sums left = sums(b), right = sums(b + LINE);
    b += 2 * LINE;
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      const Sums x = group(a + i * pitch + step);
      low[i] = multiply_add(low[i], x, left);
      high[i] = multiply_add(high[i], x, right);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    const float scale = scale_of(a + i * pitch, pitch).scale;
    store(c + i * COLUMNS, converted(low[i]) * (all(scale) * scale_low));
    store(c + i * COLUMNS + LANES, converted(high[i]) * (all(scale) * scale_high));
  }
}

typedef void (*Int8Tile)(const Quantised *, long, const Quantised *, long, V, V, float *);
static const Int8Tile INT8_TILES[] = {
    0,            int8_tile<1>,  int8_tile<2>,  int8_tile<3>,  int8_tile<4>,
    int8_tile<5>, int8_tile<6>,
#if FEWER_LANES == 16
    int8_tile<7>, int8_tile<8>,  int8_tile<9>,  int8_tile<10>, int8_tile<11>,
    int8_tile<12>, int8_tile<13>, int8_tile<14>,
#endif
};

struct Int8 {
  typedef Quantised Number;
  enum { COARSE = 1, TILE = 1, MAX_ROWS = 56, HALF_INNER = 0, REQUANTISES = 1 };
  static void begin() {}
  static void end() {}

  // A row of an operand ends with its scale; rows a power of two apart would share lines of the cache.
  static long pitch(long k) { return round_up(k, 64) + 64; }
  static size_t panel(long k) { return (size_t)round_up(k, GROUP) * COLUMNS + HEADER; }
  static inline long place(long row, long column, long pitch) { return row * pitch + column; }

  static void pack(const float *weight, long n, long k, Number *out) {
    for (long column = 0; column < n; column += COLUMNS, out += panel(k)) {
      int32_t totals[COLUMNS];
      for (long j = 0; j < COLUMNS; j++) {
        totals[j] = 0;
        for (long i = 0; i < round_up(k, GROUP); i++) {
          const int q = column + j < n && i < k ? (int)weight[(column + j) * k + i] : 0;
          totals[j] += q;
          out[HEADER + (i / GROUP * COLUMNS + j) * GROUP + i % GROUP] = (Number)q;
        }
      }
      __builtin_memcpy(out, totals, sizeof totals);
    }
  }

  // Quantise rows of x. Their range includes 0; NaN and infinity make the scale NaN.
  static const Number *stage(const void *x, bool is_half, long stride, long rows, long k, Number *to) {
    for (long i = 0; i < rows; i++) {
      Number *quantised = to + i * pitch(k);
      const float *numbers = (const float *)x + i * stride;
      const auto row = [&](long j) {
#if FEWER_LANES == 16
        if (is_half) return load_half((const Half *)x + i * stride + j, k - j);
#endif
        return k - j >= LANES ? load(numbers + j) : load_first(numbers + j, k - j, 0.0f);
      };
      V low = zero(), high = zero(), not_finite = zero();
      for (long j = 0; j < k; j += LANES) {
        const V y = row(j);
        low = smaller(y, low);
        high = greater(y, high);
        not_finite = fma(y, zero(), not_finite);
      }
      const float least = minimum(low), range = maximum(high) - least;
      const bool is_finite = sum(not_finite) == 0.0f, is_zero = range < 1e-30f;  // 255 / range overflows
      const float inverse = is_zero || !is_finite ? 0.0f : 255.0f / range;
      const float scale = is_finite ? range / 255.0f : __builtin_nanf("");
      const float shift = is_finite ? -least * inverse : 0.0f;
      const RowScale end = {is_zero ? 0.0f : scale, (int32_t)__builtin_rintf(shift)};
      for (long j = 0; j < k; j += LANES) store_quantised(quantised + j, row(j) * all(inverse), end.zero);
      __builtin_memcpy(quantised + pitch(k) - sizeof end / sizeof(Number), &end, sizeof end);
    }
    return to;
  }

  // Tiles of equal heights: a last tile of few rows would wait for its own sums.
  template <class Emit>
  static void multiply(const Number *a, long rows, const Weight &w, const Emit &emit) {
    float c[TILE_ROWS * COLUMNS] __attribute__((aligned(64)));
    const Number *packed = (const Number *)w.packed;
    const long tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, height = (rows + tiles - 1) / tiles;
    for (long column = 0; column < w.n; column += COLUMNS, packed += panel(w.k)) {
      const V low = load_first(w.scale + column, w.n - column, 0.0f);
      const V high = load_first(w.scale + column + LANES, w.n - column - LANES, 0.0f);
      for (long row = 0; row < rows; row += height) {
        const long m = at_most(height, rows - row);
        INT8_TILES[m](a + row * pitch(w.k), pitch(w.k), packed, w.k, low, high, c);
        emit(c, row, m, column);
      }
    }
  }
};
