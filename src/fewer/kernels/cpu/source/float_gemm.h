// Matrix products in fp32. Packed weights: panels of COLUMNS columns, each [k][COLUMNS].
//
// Batch-invariant: every output is one chain of multiply-adds in the order of k, whatever the place of
// its row and the number of rows.

template <int M>
static inline __attribute__((always_inline)) void float_step(const float *a, long a_stride,
                                                             const float *b, V *low, V *high) {
  const V left = load(b), right = load(b + LANES);
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    const V x = all(a[i * a_stride]);
    low[i] = fma(x, left, low[i]);
    high[i] = fma(x, right, high[i]);
  }
}

// c (ROWS, c_stride) = a (M rows, a_stride) x panel (k, COLUMNS), two vectors wide.
//
// The weights of a model do not fit the cache of a core: `ahead` is prefetched for the next panel, 64
// bytes every fourth step, since the hardware prefetcher stops at each page.
template <int M>
static void float_tile(const float *a, long a_stride, const float *b, long k, float *c, long c_stride,
                       const char *ahead) {
  V low[M], high[M];
  for (int i = 0; i < M; i++) low[i] = high[i] = zero();
  long step = 0;
  for (; step + 4 <= k; step += 4) {
    __builtin_prefetch(ahead + step * 16, 0, 2);
#pragma GCC unroll 4
    for (int next = 0; next < 4; next++)
      float_step<M>(a + step + next, a_stride, b + next * COLUMNS, low, high);
    b += 4 * COLUMNS;
  }
  for (; step < k; step++, b += COLUMNS) float_step<M>(a + step, a_stride, b, low, high);
  for (int i = 0; i < M; i++) {
    store(c + i * c_stride, low[i]);
    store(c + i * c_stride + LANES, high[i]);
  }
}

typedef void (*FloatTile)(const float *, long, const float *, long, float *, long, const char *);
static const FloatTile FLOAT_TILES[] = {
    0,              float_tile<1>,  float_tile<2>,  float_tile<3>,  float_tile<4>,
    float_tile<5>,  float_tile<6>,
#if FEWER_LANES != 8
    float_tile<7>,  float_tile<8>,
#endif
#if FEWER_LANES == 16
    float_tile<9>,  float_tile<10>, float_tile<11>, float_tile<12>, float_tile<13>, float_tile<14>,
#endif
};

struct Float {
  typedef float Number;
  // MAX_ROWS rows are computed at a time: their inner states fill half of the cache of a core.
  enum {
    COARSE = 0,
    BLOCK = ROWS * (FEWER_LANES == 16 ? 2 : 4),
    TILE = ROWS,
    DEPTH = 1,
    MAX_ROWS = 14 * ROWS,
    HALF_INNER = 0,  // whether inner states of a feed-forward block are bf16
    REQUANTISES = 0  // whether they must be staged as an operand
  };

  static void begin() {}
  static void end() {}
  // Numbers in a row of an operand; eight rows or fewer fit in any set of the cache, without a copy.
  static long pitch(long k) { return ROWS > 8 ? apart<float>(k) : k; }
  static size_t panel(long k) { return (size_t)k * COLUMNS; }  // numbers in a panel

  static void pack(const float *weight, long n, long k, float *out) {
    for (long column = 0; column < round_up(n, COLUMNS); column += COLUMNS)
      for (long step = 0; step < k; step++)
        for (long j = 0; j < COLUMNS; j++)
          *out++ = column + j < n ? weight[(column + j) * k + step] : 0.0f;
  }

  // Where neighbouring numbers of a left operand begin.
  static inline long place(long row, long column, long depth) { return row * depth + column; }

  // Rows of x as left operand, without a copy if they already are one.
  static const float *stage(const void *x, bool, long stride, long rows, long k, float *to) {
    const float *from = (const float *)x;
    if (stride == pitch(k)) return from;
    for (long i = 0; i < rows; i++) __builtin_memcpy(to + i * pitch(k), from + i * stride, k * sizeof(float));
    return to;
  }

  // Probabilities, row by row, as left operand: here the stored numbers.
  static inline void store_operand(float *, long, long, long, V, V) {}
  static const float *operand(const float *stored, const float *) { return stored; }
  static long operand_stride(long, long pitch) { return pitch; }

  // a (rows, k) x all panels; `emit(results, first row, rows, first column)` takes each finished tile.
  template <class Emit>
  static void multiply(const float *a, long rows, const Weight &w, const Emit &emit) {
    const long k = w.k, n = w.n;
    const float *packed = (const float *)w.packed;
    float c[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long column = 0; column < n; column += COLUMNS) {
      const char *ahead = (const char *)(packed + panel(k));
      for (long row = 0; row < rows; row += ROWS, ahead += k * 16) {
        long m = at_most(ROWS, rows - row);
        FLOAT_TILES[m](a + row * pitch(k), pitch(k), packed, k, c, COLUMNS, ahead);
        emit(Results{c}, row, m, column);
      }
      packed += panel(k);
    }
  }

  // Keys j .. j + COLUMNS of one head as a panel (width, COLUMNS); rows past `keys` are 0.
  static void pack_keys(const float *k, long stride, long keys, long width, float *out) {
    long done = 0;
#if FEWER_LANES == 16
    for (; done + 16 <= width; done += 16)
      for (long side = 0; side < 2; side++) {
        const long rows = keys - side * 16;
        transpose((const char *)(k + side * 16 * stride + done), stride * 4, rows < 0 ? 0 : at_most(16, rows),
                  (char *)(out + done * COLUMNS + side * 16), COLUMNS * 4);
      }
#endif
    for (long j = 0; j < COLUMNS; j++)
      for (long i = done; i < width; i++) out[i * COLUMNS + j] = j < keys ? k[j * stride + i] : 0.0f;
  }

  // Values of one head as panels of COLUMNS dimensions, (padded, COLUMNS) each; 0 past `keys`.
  static void pack_values(const float *v, long stride, long keys, long padded, long width, float *out) {
    for (long first = 0; first < width; first += COLUMNS)
      for (long j = 0; j < padded; j++)
        for (long i = 0; i < COLUMNS; i += LANES, out += LANES) {
          const long n = j < keys ? width - first - i : 0;
          store(out, n > 0 ? load_first(v + j * stride + first + i, n, 0.0f) : zero());
        }
  }

  static void product(const float *a, long a_stride, long rows, const float *panel, long k, float *c,
                      long c_stride) {
    for (long row = 0; row < rows; row += ROWS)
      FLOAT_TILES[at_most(ROWS, rows - row)](a + row * a_stride, a_stride, panel, k, c + row * c_stride,
                                             c_stride, (const char *)panel);
  }

  static void put(float *to, V x, long n) {
    if (n >= LANES) return store(to, x);
    store_first(to, x, n);
  }
};
