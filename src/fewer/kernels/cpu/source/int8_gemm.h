// Matrix products of 8-bit integers. Weights come as signed integers with a scale per output; each row
// of x is quantised here to unsigned ones, x = (q - zero) scale, over the range of that row. Sums of 32
// bits are exact, so an output depends on its row and the weights alone, whatever the order.
//
// AVX512_VNNI and AMX multiply unsigned by signed bytes. AVX2 has no such product that cannot saturate:
// there, numbers are kept in 16 bits.
//
// Packed weights: panels of COLUMNS columns, each the sums of the columns, with which `zero` is taken
// off, and [k / GROUP][COLUMNS][GROUP]; k is filled up with zeros to a multiple of STEP.

// Not __m512i: GCC keeps arrays of types that may alias others in memory.
typedef int32_t Sums __attribute__((vector_size(4 * LANES)));

#if FEWER_LANES == 16
typedef uint8_t Quantised;
enum { GROUP = 4, STEP = FEWER_AMX ? 64 : 4, HEADER = 4 * COLUMNS, TILE_ROWS = 14 };
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
// Four vectors to 64 numbers, x + zero in the range of bytes.
static inline void store_quantised(Quantised *to, const V *x, int32_t zero) {
  __m512i q[4];
  for (int i = 0; i < 4; i++) q[i] = _mm512_add_epi32(_mm512_cvtps_epi32(x[i]), _mm512_set1_epi32(zero));
  const __m512i low = _mm512_packs_epi32(q[0], q[1]), high = _mm512_packs_epi32(q[2], q[3]);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
}
static inline float minimum(V x) { return _mm512_reduce_min_ps(x); }
#else
typedef int16_t Quantised;
enum { GROUP = 2, STEP = 2, HEADER = 2 * COLUMNS, TILE_ROWS = 6 };
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
static inline void store_quantised(Quantised *to, const V *x, int32_t zero) {
  for (int i = 0; i < 4; i++) {
    const __m256i sum = _mm256_add_epi32(_mm256_cvtps_epi32(x[i]), _mm256_set1_epi32(zero));
    const __m256i q = _mm256_min_epi32(sum, _mm256_set1_epi32(255));
    _mm_storeu_si128((__m128i *)(to + i * LANES),
                     _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1)));
  }
}
#endif

// A row of an operand: numbers = scale (q - zero).
struct RowScale {
  float scale, zero;
};

// Where 64 neighbouring numbers of an operand begin, and where the scale of a row is.
#if FEWER_AMX
// In the order of tiles, of which the last holds the scales of its 16 rows.
static inline long place(long row, long column, long pitch) { return tile_offset(row, column, pitch); }
static inline long place_of_scale(long row, long pitch) {
  return place(row & ~15l, pitch - 64, pitch) + (row & 15) * (long)sizeof(RowScale);
}
#else
// A row ends with its scale; rows a power of two apart would share lines of the cache.
static inline long place(long row, long column, long pitch) { return row * pitch + column; }
static inline long place_of_scale(long row, long pitch) {
  return place(row + 1, 0, pitch) - (long)(sizeof(RowScale) / sizeof(Quantised));
}
static inline RowScale scale_of(const Quantised *a, long row, long pitch) {
  RowScale scale;
  __builtin_memcpy(&scale, a + place_of_scale(row, pitch), sizeof scale);
  return scale;
}
#endif

#if FEWER_AMX
// Results as in Results: sums less `zero` times the sum of their column, in fp32 exact below 2^24, times
// the scales of rows and columns.
struct ScaledSums {
  const int32_t *c;
  const RowScale *ends;    // of the rows
  V totals[2], scales[2];  // of the columns
  struct Vectors {
    const int32_t *c;
    const RowScale *ends;
    V totals, scales;
    inline V operator()(long i) const {
      V y = fma(-totals, all(ends[i].zero), converted(sums(c + i * COLUMNS))) * (all(ends[i].scale) * scales);
      __asm__("" : "+v"(y));  // rounded before a bias is added, as in the other kernels of int8
      return y;
    }
  };
  inline Vectors of(long j) const { return {c + j, ends, totals[j / LANES], scales[j / LANES]}; }
};
#else
// c (M, COLUMNS) = a (M rows of `pitch` numbers) x panel, times the scales of rows and columns.
template <int M>
static void int8_tile(const Quantised *a, long pitch, const Quantised *panel, long k, V scale_low,
                      V scale_high, float *c) {
  enum { LINE = GROUP * LANES };
  Sums low[M], high[M];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    const int32_t zero = (int32_t)scale_of(a, i, pitch).zero;
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
    const float scale = scale_of(a, i, pitch).scale;
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
#endif

struct Int8 {
  typedef Quantised Number;
#if FEWER_AMX
  enum { COARSE = 1, TILE = 32, MAX_ROWS = 64, HALF_INNER = 0, REQUANTISES = 1 };
  static void begin() { configure_tiles(); }
  static void end() { _tile_release(); }
#else
  enum { COARSE = 1, TILE = 1, MAX_ROWS = 56, HALF_INNER = 0, REQUANTISES = 1 };
  static void begin() {}
  static void end() {}
#endif

  static long pitch(long k) { return round_up(k, 64) + 64; }
  static size_t panel(long k) { return (size_t)round_up(k, STEP) * COLUMNS + HEADER; }
  static inline long place(long row, long column, long pitch) { return FEWER_ISA::place(row, column, pitch); }

  static void pack(const float *weight, long n, long k, Number *out) {
    for (long column = 0; column < n; column += COLUMNS, out += panel(k)) {
      int32_t totals[COLUMNS];
      for (long j = 0; j < COLUMNS; j++) {
        totals[j] = 0;
        for (long i = 0; i < round_up(k, STEP); i++) {
          const int q = column + j < n && i < k ? (int)weight[(column + j) * k + i] : 0;
          totals[j] += q;
          out[HEADER + (i / GROUP * COLUMNS + j) * GROUP + i % GROUP] = (Number)q;
        }
      }
      __builtin_memcpy(out, totals, sizeof totals);
    }
  }

  // Quantise rows of x.
  static const Number *stage(const void *x, bool is_half, long stride, long rows, long k, Number *to) {
    for (long i = 0; i < rows; i++) {
#if FEWER_LANES == 16
      if (is_half) {
        const Half *numbers = (const Half *)x + i * stride;
        quantise(i, k, to, [&](long j) { return load_half(numbers + j, k - j); });
        continue;
      }
#endif
      const float *numbers = (const float *)x + i * stride;
      quantise(i, k, to, [&](long j) {
        return k - j >= LANES ? load(numbers + j) : load_first(numbers + j, k - j, 0.0f);
      });
    }
    return to;
  }

  // Quantise row i, four vectors at a time. Its range includes 0; NaN and infinity make the scale NaN.
  template <class Row>
  static inline void quantise(long i, long k, Number *to, const Row &row) {
    enum { VECTORS = 4 };
    V low[VECTORS], high[VECTORS], not_finite[VECTORS];
    for (int v = 0; v < VECTORS; v++) low[v] = high[v] = not_finite[v] = zero();
    for (long j = 0; j < k; j += VECTORS * LANES)
      for (int v = 0; v < VECTORS; v++) {
        const V y = row(j + v * LANES);
        low[v] = smaller(y, low[v]);
        high[v] = greater(y, high[v]);
        not_finite[v] = fma(y, zero(), not_finite[v]);
      }
    const float least = minimum(smaller(smaller(low[0], low[1]), smaller(low[2], low[3])));
    const float range = maximum(greater(greater(high[0], high[1]), greater(high[2], high[3]))) - least;
    const bool is_finite = sum(not_finite[0] + not_finite[1] + (not_finite[2] + not_finite[3])) == 0.0f;
    const bool is_zero = range < 1e-30f;  // 255 / range overflows
    const float inverse = is_zero || !is_finite ? 0.0f : 255.0f / range;
    const float scale = is_finite ? range / 255.0f : __builtin_nanf("");
    const float shift = is_finite ? -least * inverse : 0.0f;
    const RowScale end = {is_zero ? 0.0f : scale, __builtin_rintf(shift)};
    for (long j = 0; j < k; j += VECTORS * LANES) {
      V steps[VECTORS];
      for (int v = 0; v < VECTORS; v++) steps[v] = row(j + v * LANES) * all(inverse);
      store_quantised(to + place(i, j, pitch(k)), steps, (int32_t)end.zero);
    }
    __builtin_memcpy(to + place_of_scale(i, pitch(k)), &end, sizeof end);
  }

#if FEWER_AMX
  template <class Emit>
  static void multiply(const Number *a, long rows, const Weight &w, const Emit &emit) {
    const long distance = pitch(w.k);
    const auto operand = [&](long row) { return a + row * distance; };
    const auto start = [&](long column) { return (const Number *)w.packed + column / COLUMNS * panel(w.k); };
    const auto columns = [&](long column) { return start(column) + HEADER; };
    multiply_tiles<int32_t>(
        operand, columns, rows, w.n, round_up(w.k, STEP) / STEP, [&](const int32_t *c, long row, long m, long column) {
          const Number *panel = start(column);
          const float *scale = w.scale + column;
          const long n = w.n - column;
          const ScaledSums tile = {c, (const RowScale *)(a + place_of_scale(row, distance)),
                                   {converted(sums(panel)), converted(sums(panel + HEADER / 2))},
                                   {load_first(scale, n, 0.0f), load_first(scale + LANES, n - LANES, 0.0f)}};
          emit(tile, row, m, column);
        });
  }
#else
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
        emit(Results{c}, row, m, column);
      }
    }
  }
#endif
};
