// Matrix products of bf16 numbers, summed in fp32. Packed weights: panels of 32 columns, each
// [k / 2][32] pairs of neighbours in k; k is filled up with zeros to a multiple of 32.
//
// With FEWER_AMX a 32 x 32 tile of results is multiplied in the tile registers, otherwise 14 rows
// at a time in vectors. Both are batch-invariant: an output is one chain over k, whatever its row.

template <int M>
static void half_tile(const Half *a, long a_stride, const Half *b, long k, float *c, long c_stride) {
  V low[M], high[M];
  for (int i = 0; i < M; i++) low[i] = high[i] = zero();
  for (long step = 0; step < k; step += 2) {
    __m512bh left = (__m512bh)pairs(b), right = (__m512bh)pairs(b + 32);
    b += 64;
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      int pair;
      __builtin_memcpy(&pair, a + i * a_stride + step, 4);
      __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      low[i] = _mm512_dpbf16_ps(low[i], x, left);
      high[i] = _mm512_dpbf16_ps(high[i], x, right);
    }
  }
  for (int i = 0; i < M; i++) {
    store(c + i * c_stride, low[i]);
    store(c + i * c_stride + 16, high[i]);
  }
}

typedef void (*HalfTile)(const Half *, long, const Half *, long, float *, long);
static const HalfTile HALF_TILES[] = {
    0,             half_tile<1>,  half_tile<2>,  half_tile<3>,  half_tile<4>,
    half_tile<5>,  half_tile<6>,  half_tile<7>,  half_tile<8>,  half_tile<9>,
    half_tile<10>, half_tile<11>, half_tile<12>, half_tile<13>, half_tile<14>,
};

struct Bf16 {
  typedef Half Number;
#if FEWER_AMX
  enum { COARSE = 1, BLOCK = 32, TILE = 32, DEPTH = 32, MAX_ROWS = 256, HALF_INNER = 1, REQUANTISES = 0 };
  static void begin() { configure_tiles(); }
  static void end() { _tile_release(); }
#else
  enum { COARSE = 1, BLOCK = 28, TILE = 14, DEPTH = 32, MAX_ROWS = 252, HALF_INNER = 1, REQUANTISES = 0 };
  static void begin() {}
  static void end() {}
#endif
  static size_t panel(long k) { return (size_t)round_up(k, 32) * 32; }

  // Numbers in a row of an operand, and where 32 neighbouring ones begin.
#if FEWER_AMX
  static inline long row_pitch(long depth) { return depth; }
  static inline long place(long row, long column, long depth) {
    return tile_offset(row, column * 2, depth * 2) / 2;
  }
#else
  static inline long row_pitch(long depth) { return apart<Half>(depth); }
  static inline long place(long row, long column, long depth) { return row * row_pitch(depth) + column; }
#endif
  static long pitch(long k) { return row_pitch(round_up(k, 32)); }

  static void pack(const float *weight, long n, long k, Half *out) {
    for (long column = 0; column < n; column += 32)
      for (long step = 0; step < round_up(k, 32); step += 2)
        for (long j = column; j < column + 32; j++)
          for (long i = step; i < step + 2; i++) {
            float x = j < n && i < k ? weight[j * k + i] : 0.0f;
            store_half<false>(out++, all(x), 1);
          }
  }

  // Rows of x as left operand; whole tiles, zeros past k and past the rows.
  static const Half *stage(const void *x, bool is_half, long stride, long rows, long k, Half *to) {
    const long depth = round_up(k, 32);
    for (long i = 0; i < round_up(rows, TILE); i++)
      for (long j = 0; j < depth; j += 32) {
        Half *here = to + place(i, j, depth);
        const long n = i < rows ? at_most(32, k - j) : 0;
        if (is_half) {
          const Half *from = (const Half *)x + i * stride + j;
          const __mmask32 mask = n == 32 ? 0xffffffffu : (1u << n) - 1;
          _mm512_storeu_si512(here, _mm512_maskz_loadu_epi16(mask, from));
        } else {
          const float *from = (const float *)x + i * stride + j;
          const V low = n > 0 ? load_first(from, n, 0.0f) : zero();
          const V high = n > 16 ? load_first(from + 16, n - 16, 0.0f) : zero();
          _mm512_storeu_si512(here, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
      }
    return to;
  }

  // Probabilities, row by row, as left operand.
  static inline void store_operand(Half *to, long row, long column, long span, V low, V high) {
    _mm512_storeu_si512(to + place(row, column, span), (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  static const Half *operand(const float *, const Half *numbers) { return numbers; }
  static long operand_stride(long span, long) { return row_pitch(span); }

#if FEWER_AMX
  template <class Emit>
  static void multiply(const Half *a, long rows, const Weight &w, const Emit &emit) {
    const long depth = round_up(w.k, 32);
    const auto operand = [&](long row) { return a + row * depth; };
    const auto columns = [&](long column) { return (const Half *)w.packed + column * depth; };
    multiply_tiles<float>(operand, columns, rows, w.n, depth / 32, [&](const float *c, long row, long m, long column) {
      emit(Results{c}, row, m, column);
    });
  }

  // c must hold whole tiles of 32 rows, a too.
  static void product(const Half *a, long a_stride, long rows, const Half *panel, long k, float *c,
                      long c_stride) {
    for (long row = 0; row < rows; row += 32) {
      clear_tiles();
      tile_chain(a + row * a_stride, a + (row + 16) * a_stride, panel, k / 32, [](long) {});
      store_tiles(c + row * c_stride, c_stride);
    }
  }
#else
  template <class Emit>
  static void multiply(const Half *a, long rows, const Weight &w, const Emit &emit) {
    const long k = w.k, n = w.n;
    const Half *packed = (const Half *)w.packed;
    float c[14 * 32] __attribute__((aligned(64)));
    const long depth = round_up(k, 32);
    for (long column = 0; column < n; column += 32) {
      for (long row = 0; row < rows; row += 14) {
        long m = at_most(14, rows - row);
        HALF_TILES[m](a + place(row, 0, depth), row_pitch(depth), packed, depth, c, 32);
        emit(Results{c}, row, m, column);
      }
      packed += panel(k);
    }
  }

  static void product(const Half *a, long a_stride, long rows, const Half *panel, long k, float *c,
                      long c_stride) {
    for (long row = 0; row < rows; row += 14)
      HALF_TILES[at_most(14, rows - row)](a + row * a_stride, a_stride, panel, k, c + row * c_stride,
                                          c_stride);
  }
#endif

  static void pack_keys(const Half *k, long stride, long keys, long width, Half *out) {
    Half lines[16 * 32];
    for (long first = 0; first < width; first += 32)
      for (long side = 0; side < 2; side++) {
        long rows = keys - side * 16;
        rows = rows < 0 ? 0 : at_most(16, rows);
        const Half *from = k + side * 16 * stride + first;
        long from_stride = stride;
        if (width - first < 32) {  // the last dimensions of a width that is no multiple of 32
          __builtin_memset(lines, 0, sizeof lines);
          for (long j = 0; j < rows; j++)
            __builtin_memcpy(lines + j * 32, from + j * stride, (width - first) * sizeof(Half));
          from = lines, from_stride = 32;
        }
        transpose((const char *)from, from_stride * 2, rows, (char *)(out + first * 32 + side * 32), 128);
      }
  }

  // Pairs of neighbouring keys side by side; `padded` keys, those past `keys` are 0.
  static void pack_values(const Half *v, long stride, long keys, long padded, long width, Half *out) {
    for (long first = 0; first < width; first += 32) {
      const long n = at_most(32, width - first);
      const __mmask32 mask = n == 32 ? 0xffffffffu : ((1u << n) - 1);
      for (long j = 0; j < padded; j += 2, out += 64) {
        __m512i even = j < keys ? _mm512_maskz_loadu_epi16(mask, v + j * stride + first)
                                : _mm512_setzero_si512();
        __m512i odd = j + 1 < keys ? _mm512_maskz_loadu_epi16(mask, v + (j + 1) * stride + first)
                                   : _mm512_setzero_si512();
        __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
        const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        const __m512i back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, front, high));
        _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi64(low, back, high));
      }
    }
  }

  static void put(Half *to, V x, long n) {
    if (n >= LANES) return store_half<true>(to, x, n);
    store_half<false>(to, x, n);
  }
};
