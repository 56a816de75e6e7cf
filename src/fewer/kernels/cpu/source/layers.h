// Linear maps with fused epilogues, the feed-forward block, embeddings; over blocks of rows.

static thread_local Scratch rows_scratch;

template <bool WHOLE>
static inline void store_state(void *out, bool half, long at, V x, long lanes) {
#if FEWER_BF16 || (FEWER_INT8 && FEWER_LANES == 16)
  if (half) return store_half<WHOLE>((Half *)out + at, x, lanes);
#endif
  store_some<WHOLE>((float *)out + at, x, lanes);
}

// The epilogue of a linear map: bias, activation, factor, residual, fp32 or bf16.
struct Epilogue {
  const float *bias, *residual;
  long residual_stride, n;
  void *out;
  long out_stride;
  bool half, tiled;  // tiled: as a left operand of the next product
  const float *factor;
  long factor_stride;

  // Rows of an operand in the order of tiles must lie in one tile.
  template <class P, int ACTIVATION, class Tile>
  inline void put(const Tile &tile, long row, long rows, long column) const {
    if (n - column >= COLUMNS) return put_columns<P, ACTIVATION, true>(tile, row, rows, column);
    put_columns<P, ACTIVATION, false>(tile, row, rows, column);
  }
  template <class P, int ACTIVATION, bool WHOLE, class Tile>
  inline void put_columns(const Tile &tile, long row, long rows, long column) const {
    const long bytes = half ? 2 : 4, factor_step = factor_stride, residual_step = residual_stride;
    const long start = tiled ? P::place(row, column, out_stride) : row * out_stride + column;
    const long step = (tiled ? P::place(row + 1, column, out_stride) - start : out_stride) * bytes;
    const bool is_half = half;
    for (long j = 0; j < COLUMNS; j += LANES) {
      const long lanes = n - column - j;
      if (!WHOLE && lanes <= 0) break;
      const V shift = bias ? load_some<WHOLE>(bias + column + j, lanes, 0.0f) : zero();
      const float *times = factor ? factor + row * factor_step + column + j : 0;
      const float *plus = residual ? residual + row * residual_step + column + j : 0;
      char *to = (char *)out + (start + j) * bytes;
      const auto products = tile.of(j);
      for (long i = 0; i < rows; i++, to += step) {
        V y = activated<ACTIVATION, P::COARSE>(products(i) + shift);
        if (times) {
          y *= load_some<WHOLE>(times, lanes, 0.0f);
          times += factor_step;
        }
        if (plus) {
          y += load_some<WHOLE>(plus, lanes, 0.0f);
          __builtin_prefetch(plus + COLUMNS);
          plus += residual_step;
        }
        store_state<WHOLE>(to, is_half, 0, y, lanes);
      }
    }
  }
  // Rows from `row` on.
  Epilogue below(long row) const {
    Epilogue s = *this;
    if (factor) s.factor = factor + row * factor_stride;
    if (residual) s.residual = residual + row * residual_stride;
    s.out = (char *)out + row * out_stride * (half ? 2 : 4);
    return s;
  }
};

template <class P, int ACTIVATION>
static void multiply_into(const typename P::Number *a, long rows, const Weight &w, const Epilogue &epilogue) {
  P::multiply(a, rows, w, [&](const auto &tile, long row, long m, long column) {
    epilogue.template put<P, ACTIVATION>(tile, row, m, column);
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

// Columns first .. end of a weight, whole panels; moves the epilogue to these columns.
template <class P>
static Weight columns_of(const Weight &w, long first, long end, Epilogue *epilogue) {
  typedef typename P::Number Number;
  const Number *packed = (const Number *)w.packed + first / COLUMNS * P::panel(w.k);
  const Weight part = {packed, w.bias ? w.bias + first : 0, w.scale ? w.scale + first : 0,
                       end > first ? end - first : 0, w.k};
  epilogue->bias = part.bias;
  epilogue->n = part.n;
  if (epilogue->factor) epilogue->factor += first;
  if (epilogue->residual) epilogue->residual += first;
  const long start = epilogue->tiled ? P::place(0, first, epilogue->out_stride) : first;
  epilogue->out = (char *)epilogue->out + start * (epilogue->half ? 2 : 4);
  return part;
}

// Group g of the columns of a weight.
template <class P>
static Weight group_of(const Weight &w, const Partition &c, long g, Epilogue *epilogue) {
  const long panels = round_up(w.n, COLUMNS) / COLUMNS, each = (panels + c.groups - 1) / c.groups;
  const long first = at_most(g * each, panels) * COLUMNS;
  return columns_of<P>(w, first, at_most((g + 1) * each * COLUMNS, w.n), epilogue);
}

static void normalize_rows(float *x, long stride, long rows, long width, const Norm &norm) {
  if (norm.gamma)
    for (long i = 0; i < rows; i++) normalize(x + i * stride, x + i * stride, width, norm);
}

// Normalized rows, written to `to`; the rows themselves without a norm.
static const float *normalized(const float *x, long stride, long rows, long width, const Norm &norm,
                               float *to) {
  if (!norm.gamma) return x;
  for (long i = 0; i < rows; i++) normalize(x + i * stride, to + i * width, width, norm);
  return to;
}
static size_t normalized_floats(const Norm &norm, long rows, long width) {
  return norm.gamma ? (size_t)rows * width : 0;
}

template <class P>
static void linear(const LinearCall &call) {
  if (call.rows <= 0) return;
  typedef typename P::Number Number;
  const long pitch = P::pitch(call.weight.k);
  const Partition c = partition(call.rows, P::MAX_ROWS, P::TILE, call.weight.n, call.threads);
  const Epilogue epilogue = {call.weight.bias, call.residual, call.residual_stride, call.weight.n,
                     call.out, call.out_stride, call.out_bf16 != 0, false, call.factor, call.factor_stride};
  const long width = call.weight.k, x_stride = call.input_norm.gamma ? width : call.x_stride;
  const size_t numbers = round_up(c.block * pitch * sizeof(Number), 64);
  const size_t floats = normalized_floats(call.input_norm, c.block, width);
  share_tasks(c.blocks * c.groups, call.threads, [&](Tasks &tasks) {
    P::begin();
    Number *a = (Number *)scratch(&rows_scratch, numbers + floats * 4);
    float *states = (float *)((char *)a + numbers);
    for (long task; (task = tasks.take()) >= 0;) {
      const long row = task / c.groups * c.block, m = at_most(c.block, call.rows - row);
      Epilogue block = epilogue.below(row);
      const Weight part = group_of<P>(call.weight, c, task % c.groups, &block);
      if (part.n == 0) continue;
      const void *x = (const char *)call.x + row * call.x_stride * (call.x_bf16 ? 2 : 4);
      x = normalized((const float *)x, call.x_stride, m, width, call.input_norm, states);
      const Number *operand = P::stage(x, call.x_bf16 != 0, x_stride, m, width, a);
      multiply_activated<P>(operand, m, part, block, call.activation);
      if (c.groups == 1) normalize_rows((float *)block.out, call.out_stride, m, call.weight.n, call.norm);
    }
    P::end();
  });
  if (call.norm.gamma && c.groups > 1)
    share_range(call.rows, call.threads, [&](long first, long end) {
      normalize_rows((float *)call.out + first * call.out_stride, call.out_stride, end - first, call.weight.n, call.norm);
    });
}

enum { GATED_COLUMNS = 4 * COLUMNS };  // whose activations stay in the nearest cache

// act(up(a)), times gate(a) if there is a gate; `inner` holds the activations of a group of columns.
template <class P>
static void multiply_inner(const typename P::Number *a, long rows, const FeedForwardCall &call,
                           const Epilogue &epilogue, float *inner) {
  const long n = call.up.n;
  if (!call.gate.packed) return multiply_activated<P>(a, rows, call.up, epilogue, call.activation);
  for (long first = 0; first < n; first += GATED_COLUMNS) {
    const long end = at_most(first + GATED_COLUMNS, n);
    Epilogue activations = {0, 0, 0, 0, 0, GATED_COLUMNS, false, false, 0, 0}, product = epilogue;
    const Weight up = columns_of<P>(call.up, first, end, &activations);
    const Weight gate = columns_of<P>(call.gate, first, end, &product);
    activations.out = inner;
    product.factor = inner, product.factor_stride = GATED_COLUMNS;
    multiply_activated<P>(a, rows, up, activations, call.activation);
    multiply_into<P, NONE>(a, rows, gate, product);
  }
}

// The block as linear maps with all threads each, faster with fewer blocks of rows than threads.
template <class P>
static void feed_forward_by_maps(const FeedForwardCall &call) {
  const long width = call.up.k, inner = call.up.n;
  const bool half = P::HALF_INNER, gated = call.gate.packed != 0;
  const size_t bytes = call.rows * inner * (half ? 2 : 4) + 64;
  float *activations = gated ? (float *)malloc(call.rows * inner * 4 + 64) : 0;
  void *h = malloc(bytes);
  const LinearCall up = {call.x, width, call.rows, call.input_norm, call.up, 0, 0, 0, 0, {0, 0, 0, 0},
                         gated ? activations : h, inner, false, half && !gated, call.activation, call.isa,
                         call.threads};
  const LinearCall gate = {call.x, width, call.rows, call.input_norm, call.gate, activations, inner, 0, 0,
                           {0, 0, 0, 0}, h, inner, false, half, NONE, call.isa, call.threads};
  const LinearCall down = {h, inner, call.rows, {0, 0, 0, 0}, call.down, 0, 0, call.x, width, call.norm,
                           call.out, width, half, false, NONE, call.isa, call.threads};
  linear<P>(up);
  if (gated) linear<P>(gate);
  linear<P>(down);
  free(h);
  free(activations);
}

// The inner states of a block of rows stay in the cache.
template <class P>
static void feed_forward(const FeedForwardCall &call) {
  if (call.rows <= 0) return;
  typedef typename P::Number Number;
  const long width = call.up.k, inner = call.up.n;
  const long pitch = P::pitch(width), inner_pitch = P::pitch(inner);
  const Partition c = partition(call.rows, P::MAX_ROWS, P::TILE, inner, call.threads);
  if (c.groups > 1) return feed_forward_by_maps<P>(call);
  const Epilogue epilogue = {call.down.bias, call.x, width, width, call.out, width, false, false, 0, 0};
  const size_t numbers = round_up(c.block * (pitch + inner_pitch) * sizeof(Number), 64);
  const size_t inputs = normalized_floats(call.input_norm, c.block, width);
  const size_t gated = call.gate.packed ? c.block * GATED_COLUMNS : 0;
  const size_t floats = inputs + gated + (P::REQUANTISES ? c.block * inner : 0);
  share_tasks(c.blocks, call.threads, [&](Tasks &tasks) {
    P::begin();
    char *memory = (char *)scratch(&rows_scratch, numbers + floats * 4);
    Number *a = (Number *)memory, *h = a + c.block * pitch;
    float *input = (float *)(memory + numbers), *activations = input + inputs, *states = activations + gated;
    __builtin_memset(h, 0, c.block * inner_pitch * sizeof(Number));  // tiles read past the rows
    Epilogue wide = {call.up.bias, 0, 0, inner, h, inner_pitch, P::HALF_INNER, true, 0, 0};
    if (P::REQUANTISES) wide.out = states, wide.out_stride = inner, wide.tiled = false;
    for (long task; (task = tasks.take()) >= 0;) {
      const long row = task * c.block;
      const long m = at_most(c.block, call.rows - row);
      const float *x = normalized(call.x + row * width, width, m, width, call.input_norm, input);
      const Number *operand = P::stage(x, false, width, m, width, a);
      multiply_inner<P>(operand, m, call, wide, activations);
      if (P::REQUANTISES) P::stage(states, false, inner, m, inner, h);
      const Epilogue block = epilogue.below(row);
      multiply_activated<P>(h, m, call.down, block, NONE);
      normalize_rows((float *)block.out, width, m, width, call.norm);
    }
    P::end();
  });
}

static void embed_row(const EmbedCall &call, long row) {
  float *out = call.out + row * call.width;
  const float *word = call.words + call.word[row] * call.width;
  const float *segment = call.segments ? call.segments + call.segment[row] * call.width : 0;
  const float *position = call.positions ? call.positions + call.position[row] * call.width : 0;
  for (long j = 0; j < call.width; j += LANES) {
    const long n = call.width - j;
    V y = load_first(word + j, n, 0.0f);
    if (segment) y += load_first(segment + j, n, 0.0f);
    if (position) y += load_first(position + j, n, 0.0f);
    store_first(out + j, y, n);
  }
  if (call.norm.gamma) normalize(out, out, call.width, call.norm);
}

static void embed(const EmbedCall &call) {
  share_range(call.rows, call.threads, [&](long first, long end) {
    for (long row = first; row < end; row++) embed_row(call, row);
  });
}
