// Linear maps with fused epilogues, the feed-forward block, embeddings; over blocks of rows.

static thread_local Scratch rows_scratch;

// The epilogue of a linear map: bias, activation, residual, fp32 or bf16.
struct Epilogue {
  const float *bias, *residual;
  long residual_stride, n;
  void *out;
  long out_stride;
  bool half, tiled;  // tiled: as a left operand of the next product

  template <class P, int ACTIVATION>
  inline void put(const float *c, long row, long rows, long column) const {
    for (long i = 0; i < rows; i++)
      for (long j = 0; j < COLUMNS; j += LANES) {
        const long lanes = n - column - j;
        if (lanes <= 0) break;
        V y = load(c + i * COLUMNS + j);
        if (bias) y += load_first(bias + column + j, lanes, 0.0f);
        y = activated<ACTIVATION, P::COARSE>(y);
        const long at = (row + i) * residual_stride + column + j;
        if (residual) y += load_first(residual + at, lanes, 0.0f);
        const long start = tiled ? P::place(row + i, column, out_stride) : (row + i) * out_stride + column;
        store_to(start + j, y, lanes);
      }
  }
  inline void store_to(long at, V y, long lanes) const {
#if FEWER_BF16
    if (half) return store_half((Half *)out + at, y, lanes);
#endif
    store_first((float *)out + at, y, lanes);
  }
  // Rows from `row` on.
  Epilogue below(long row) const {
    Epilogue s = *this;
    if (residual) s.residual = residual + row * residual_stride;
    s.out = (char *)out + row * out_stride * (half ? 2 : 4);
    return s;
  }
};

template <class P, int ACTIVATION>
static void multiply_into(const typename P::Number *a, long rows, const Weight &w, const Epilogue &epilogue) {
  P::multiply(a, rows, w.k, (const typename P::Number *)w.packed, w.n,
              [&](const float *c, long row, long m, long column) {
                epilogue.template put<P, ACTIVATION>(c, row, m, column);
              });
}

template <class P>
static void multiply_activated(const typename P::Number *a, long rows, const Weight &w,
                               const Epilogue &epilogue, int activation) {
  switch (activation) {
    case GELU: return multiply_into<P, GELU>(a, rows, w, epilogue);
    case GELU_TANH: return multiply_into<P, GELU_TANH>(a, rows, w, epilogue);
    case RELU: return multiply_into<P, RELU>(a, rows, w, epilogue);
    case SILU: return multiply_into<P, SILU>(a, rows, w, epilogue);
    case TANH: return multiply_into<P, TANH>(a, rows, w, epilogue);
    default: return multiply_into<P, NONE>(a, rows, w, epilogue);
  }
}

// The partition of the work: blocks of rows that fit the cache, at least one per thread; if there are
// not enough rows for all threads, blocks are cut into groups of columns too.
struct Partition {
  long block, blocks, groups;
};

static Partition partition(long rows, long max_rows, long tile, long columns, long threads) {
  const long blocks = round_up((rows + max_rows - 1) / max_rows, threads);
  Partition p;
  p.block = round_up((rows + blocks - 1) / blocks, tile);
  p.blocks = (rows + p.block - 1) / p.block;
  p.groups = at_most((threads + p.blocks - 1) / p.blocks, round_up(columns, COLUMNS) / COLUMNS);
  return p;
}

// Group g of the columns of a weight; moves the epilogue to these columns.
template <class P>
static Weight columns_of(const Weight &w, const Partition &c, long g, Epilogue *epilogue) {
  const long panels = round_up(w.n, COLUMNS) / COLUMNS, each = (panels + c.groups - 1) / c.groups;
  const long first = at_most(g * each, panels) * COLUMNS, end = at_most((g + 1) * each * COLUMNS, w.n);
  typedef typename P::Number Number;
  const Number *packed = (const Number *)w.packed + first / COLUMNS * P::panel(w.k);
  const Weight part = {packed, w.bias ? w.bias + first : 0, end > first ? end - first : 0, w.k};
  epilogue->bias = part.bias;
  epilogue->n = part.n;
  if (epilogue->residual) epilogue->residual += first;
  epilogue->out = (char *)epilogue->out + first * (epilogue->half ? 2 : 4);
  return part;
}

template <class P>
static void linear(const LinearCall &call) {
  if (call.rows <= 0) return;
  typedef typename P::Number Number;
  const long depth = round_up(call.weight.k, P::DEPTH);
  const Partition c = partition(call.rows, P::MAX_ROWS, P::TILE, call.weight.n, call.threads);
  const Epilogue epilogue = {call.weight.bias, call.residual, call.residual_stride, call.weight.n,
                     call.out, call.out_stride, call.out_bf16 != 0, false};
#pragma omp parallel num_threads(call.threads)
  {
    P::begin();
    Number *a = (Number *)scratch(&rows_scratch, c.block * depth * sizeof(Number));
#pragma omp for schedule(dynamic)
    for (long task = 0; task < c.blocks * c.groups; task++) {
      const long row = task / c.groups * c.block, m = at_most(c.block, call.rows - row);
      Epilogue block = epilogue.below(row);
      const Weight part = columns_of<P>(call.weight, c, task % c.groups, &block);
      if (part.n == 0) continue;
      const char *x = (const char *)call.x + row * call.x_stride * (call.x_bf16 ? 2 : 4);
      const Number *operand = P::stage(x, call.x_bf16 != 0, call.x_stride, m, call.weight.k, a);
      multiply_activated<P>(operand, m, part, block, call.activation);
      if (call.norm.gamma && c.groups == 1)
        for (long i = 0; i < m; i++)
          layer_norm((float *)block.out + i * call.out_stride, call.weight.n, call.norm);
    }
    P::end();
    if (call.norm.gamma && c.groups > 1) {
#pragma omp for schedule(static)
      for (long i = 0; i < call.rows; i++)
        layer_norm((float *)call.out + i * call.out_stride, call.weight.n, call.norm);
    }
  }
}

// The inner states of a block of rows stay in the cache. With fewer blocks than threads, two linear
// maps with all threads each are faster.
template <class P>
static void feed_forward(const FeedForwardCall &call) {
  if (call.rows <= 0) return;
  typedef typename P::Number Number;
  const long width = call.up.k, inner = call.up.n;
  const long depth = round_up(width, P::DEPTH), inner_depth = round_up(inner, P::DEPTH);
  const Partition c = partition(call.rows, P::MAX_ROWS, P::TILE, inner, call.threads);
  if (c.groups > 1) {
    const bool half = sizeof(Number) == 2;
    void *h = malloc(call.rows * inner * sizeof(Number) + 64);
    const LinearCall up = {call.x, width, call.rows, call.up, 0, 0, {0, 0, 0}, h,
                           inner, false, half, call.activation, call.isa, call.threads};
    const LinearCall down = {h, inner, call.rows, call.down, call.x, width, call.norm, call.out,
                             width, half, false, NONE, call.isa, call.threads};
    linear<P>(up);
    linear<P>(down);
    free(h);
    return;
  }
  const Epilogue epilogue = {call.down.bias, call.x, width, width, call.out, width, false, false};
#pragma omp parallel num_threads(call.threads)
  {
    P::begin();
    Number *a = (Number *)scratch(&rows_scratch, c.block * (depth + inner_depth) * sizeof(Number));
    Number *h = a + c.block * depth;
    const Epilogue wide = {call.up.bias, 0, 0, inner, h, inner_depth, sizeof(Number) == 2, true};
    __builtin_memset(h, 0, c.block * inner_depth * sizeof(Number));  // tiles read past the rows
#pragma omp for schedule(dynamic)
    for (long row = 0; row < call.rows; row += c.block) {
      const long m = at_most(c.block, call.rows - row);
      const Number *operand = P::stage(call.x + row * width, false, width, m, width, a);
      multiply_activated<P>(operand, m, call.up, wide, call.activation);
      const Epilogue block = epilogue.below(row);
      multiply_activated<P>(h, m, call.down, block, NONE);
      if (call.norm.gamma)
        for (long i = 0; i < m; i++) layer_norm((float *)block.out + i * width, width, call.norm);
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
