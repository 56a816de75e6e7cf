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
#if FEWER_BF16 || (FEWER_INT8 && FEWER_LANES == 16)
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
  P::multiply(a, rows, w, [&](const float *c, long row, long m, long column) {
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
  const Weight part = {packed, w.bias ? w.bias + first : 0, w.scale ? w.scale + first : 0,
                       end > first ? end - first : 0, w.k};
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
  const long pitch = P::pitch(call.weight.k);
  const Partition c = partition(call.rows, P::MAX_ROWS, P::TILE, call.weight.n, call.threads);
  const Epilogue epilogue = {call.weight.bias, call.residual, call.residual_stride, call.weight.n,
                     call.out, call.out_stride, call.out_bf16 != 0, false};
#pragma omp parallel num_threads(call.threads)
  {
    P::begin();
    Number *a = (Number *)scratch(&rows_scratch, c.block * pitch * sizeof(Number));
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
  const long pitch = P::pitch(width), inner_pitch = P::pitch(inner);
  const Partition c = partition(call.rows, P::MAX_ROWS, P::TILE, inner, call.threads);
  if (c.groups > 1) {
    const bool half = P::HALF_INNER;
    void *h = malloc(call.rows * inner * (half ? 2 : 4) + 64);
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
    const size_t numbers = c.block * (pitch + inner_pitch) * sizeof(Number);
    char *memory = (char *)scratch(&rows_scratch, numbers + (P::REQUANTISES ? c.block * inner * 4 : 0));
    Number *a = (Number *)memory, *h = a + c.block * pitch;
    float *states = (float *)(memory + numbers);
    __builtin_memset(h, 0, c.block * inner_pitch * sizeof(Number));  // tiles read past the rows
    Epilogue wide = {call.up.bias, 0, 0, inner, h, inner_pitch, P::HALF_INNER, true};
    if (P::REQUANTISES) wide.out = states, wide.out_stride = inner, wide.tiled = false;
#pragma omp for schedule(dynamic)
    for (long row = 0; row < call.rows; row += c.block) {
      const long m = at_most(c.block, call.rows - row);
      const Number *operand = P::stage(call.x + row * width, false, width, m, width, a);
      multiply_activated<P>(operand, m, call.up, wide, call.activation);
      if (P::REQUANTISES) P::stage(states, false, inner, m, inner, h);
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
