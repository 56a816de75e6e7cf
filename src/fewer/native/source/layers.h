// Linear maps with what follows them, the feed-forward block, embeddings; over blocks of rows.

static __thread Scratch rows_scratch;

// Results of a linear map, on their way out: bias, activation, residual, fp32 or bf16.
struct Sink {
  const float *bias, *residual;
  long residual_stride, n;
  void *out;
  long out_stride;
  bool half, tiled;  // tiled: as a left operand of the next product

  template <class P, int ACTIVATION>
  inline void put(const float *c, long row, long rows, long column) const {
    for (long i = 0; i < rows; i++)
      for (long j = 0; j < COLUMNS; j += LANES) {
        const long left = n - column - j;
        if (left <= 0) break;
        V y = load(c + i * COLUMNS + j);
        if (bias) y += load_first(bias + column + j, left, 0.0f);
        y = activated<ACTIVATION, P::COARSE>(y);
        const long at = (row + i) * residual_stride + column + j;
        if (residual) y += load_first(residual + at, left, 0.0f);
        const long start = tiled ? P::place(row + i, column, out_stride) : (row + i) * out_stride + column;
        store_to(start + j, y, left);
      }
  }
  inline void store_to(long at, V y, long left) const {
#if FEWER_BF16
    if (half) return store_half((Half *)out + at, y, left);
#endif
    store_first((float *)out + at, y, left);
  }
  // Rows from `row` on.
  Sink below(long row) const {
    Sink s = *this;
    if (residual) s.residual = residual + row * residual_stride;
    s.out = (char *)out + row * out_stride * (half ? 2 : 4);
    return s;
  }
};

template <class P, int ACTIVATION>
static void into(const typename P::Number *a, long rows, const Weight &w, const Sink &sink) {
  P::multiply(a, rows, w.k, (const typename P::Number *)w.packed, w.n,
              [&](const float *c, long row, long m, long column) {
                sink.template put<P, ACTIVATION>(c, row, m, column);
              });
}

template <class P>
static void mapped(const typename P::Number *a, long rows, const Weight &w, const Sink &sink, int activation) {
  switch (activation) {
    case GELU: return into<P, GELU>(a, rows, w, sink);
    case GELU_TANH: return into<P, GELU_TANH>(a, rows, w, sink);
    case RELU: return into<P, RELU>(a, rows, w, sink);
    case SILU: return into<P, SILU>(a, rows, w, sink);
    case TANH: return into<P, TANH>(a, rows, w, sink);
    default: return into<P, NONE>(a, rows, w, sink);
  }
}

// Rows of a block: few enough for the cache, an equal share for every thread, whole tiles.
static long block_rows(long rows, long most, long tile, long threads) {
  long blocks = (rows + most - 1) / most;
  blocks = round_up(blocks, threads);
  return round_up((rows + blocks - 1) / blocks, tile);
}

template <class P>
static void linear(const LinearCall &call) {
  typedef typename P::Number Number;
  const long depth = round_up(call.weight.k, P::DEPTH);
  const long block = block_rows(call.rows, 256, P::TILE, call.threads);
  const Sink sink = {call.weight.bias, call.residual, call.residual_stride, call.weight.n,
                     call.out, call.out_stride, call.out_bf16 != 0, false};
#pragma omp parallel num_threads(call.threads)
  {
    P::begin();
    Number *a = (Number *)scratch(&rows_scratch, block * depth * sizeof(Number));
#pragma omp for schedule(dynamic)
    for (long row = 0; row < call.rows; row += block) {
      const long m = at_most(block, call.rows - row);
      const char *x = (const char *)call.x + row * call.x_stride * (call.x_bf16 ? 2 : 4);
      const Number *left = P::staged(x, call.x_bf16 != 0, call.x_stride, m, call.weight.k, a);
      const Sink here = sink.below(row);
      mapped<P>(left, m, call.weight, here, call.activation);
      if (call.norm.gamma)
        for (long i = 0; i < m; i++)
          layer_norm((float *)here.out + i * call.out_stride, call.weight.n, call.norm);
    }
    P::end();
  }
}

// The inner states of a block of rows never leave the cache, nor does a matrix of all of them exist.
template <class P>
static void feed_forward(const FeedForwardCall &call) {
  typedef typename P::Number Number;
  const long width = call.up.k, inner = call.up.n;
  const long depth = round_up(width, P::DEPTH), inner_depth = round_up(inner, P::DEPTH);
  const long block = block_rows(call.rows, 256, P::TILE, call.threads);
  const Sink sink = {call.down.bias, call.x, width, width, call.out, width, false, false};
#pragma omp parallel num_threads(call.threads)
  {
    P::begin();
    Number *a = (Number *)scratch(&rows_scratch, block * (depth + inner_depth) * sizeof(Number));
    Number *h = a + block * depth;
    const Sink wide = {call.up.bias, 0, 0, inner, h, inner_depth, sizeof(Number) == 2, true};
    if (inner_depth > inner || P::TILE > 1) __builtin_memset(h, 0, block * inner_depth * sizeof(Number));
#pragma omp for schedule(dynamic)
    for (long row = 0; row < call.rows; row += block) {
      const long m = at_most(block, call.rows - row);
      const Number *left = P::staged(call.x + row * width, false, width, m, width, a);
      mapped<P>(left, m, call.up, wide, call.activation);
      const Sink here = sink.below(row);
      mapped<P>(h, m, call.down, here, NONE);
      if (call.norm.gamma)
        for (long i = 0; i < m; i++) layer_norm((float *)here.out + i * width, width, call.norm);
    }
    P::end();
  }
}

static void embed(const EmbedCall &call) {
#pragma omp parallel for num_threads(call.threads) schedule(static)
  for (long i = 0; i < call.rows; i++) {
    float *out = call.out + i * call.width;
    const float *word = call.words + call.word[i] * call.width;
    const float *segment = call.segments ? call.segments + call.segment[i] * call.width : 0;
    const float *position = call.positions ? call.positions + call.position[i] * call.width : 0;
    for (long j = 0; j < call.width; j += LANES) {
      const long n = call.width - j;
      V y = load_first(word + j, n, 0.0f);
      if (segment) y += load_first(segment + j, n, 0.0f);
      if (position) y += load_first(position + j, n, 0.0f);
      store_first(out + j, y, n);
    }
    if (call.norm.gamma) layer_norm(out, call.width, call.norm);
  }
}
