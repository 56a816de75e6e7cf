// Attention text by text and head by head, with the attention that each key receives.
//
// A task is a piece of the queries of one head of one text. It holds the scores of one block of
// queries against all keys of its text, so memory grows with the length of the longest text. The
// order of sums depends on the text only.

static thread_local Scratch head_scratch;

enum {
  PIECE = 672,  // queries per task, whole blocks in every precision
  PADDING = 16  // rows of scores at a power-of-two distance would share a few cache lines
};

struct Task {
  long text, head, first, queries, weight;
};

// Heaviest first, so that threads finish together.
static int heavier(const void *a, const void *b) {
  const long x = ((const Task *)a)->weight, y = ((const Task *)b)->weight;
  return (x < y) - (x > y);
}

// The number of pieces of a text; its sums of attention received have one row per head and piece.
static long pieces_of(const AttentionCall &call, long text) {
  return (call.cu_q[text + 1] - call.cu_q[text] + PIECE - 1) / PIECE;
}

struct Span {
  long first, end;
};

// Keys no farther than the window from positions low..high; positions ascend.
static Span within(const int64_t *position, long keys, long low, long high, long window) {
  Span span = {0, keys};
  while (span.first < keys && position[span.first] < low - window) span.first++;
  while (span.end > span.first && position[span.end - 1] > high + window) span.end--;
  return span;
}

static void fill(float *p, long first, long end, float x) {
  for (long j = first; j < end; j++) p[j] = x;
}

// The sum of 2^(scaled score - largest) of a row, and minus the largest.
struct Total {
  float sum, shift;
  float log() const { return (__builtin_log2f(sum) - shift) / LOG2_E; }
};

template <class P>
static inline V exp2_for(V x) {
  return P::COARSE ? exp2_coarse(x) : exp2_of(x);
}

// Row i of the scores -> 2^(scaled score - largest) as left operand of the next product, and in their place
// if KEEP. Visible are the keys of `visible` and the first `exempt` keys.
template <class P, bool KEEP>
static Total exponentiate(float *s, long span, const float *bias, long biased, float scale, Span visible,
                          long exempt, typename P::Number *operand, long row) {
  V factor = all(scale * LOG2_E), peak[2], total[2] = {zero(), zero()};
  if (bias) {
    for (long j = 0; j < span; j += LANES)
      store(s + j, fma(load_first(bias + j, biased - j, 0.0f), all(LOG2_E), load(s + j) * factor));
    factor = all(1.0f);
  }
  const float masked = bias ? -3.0e38f : -1.0e37f;  // less than any score, log2(e) times it finite
  fill(s, exempt, visible.first, masked);
  fill(s, visible.end, span, masked);
  peak[0] = peak[1] = all(-3.0e38f);
  for (long j = 0; j < span; j += 2 * LANES) {
    peak[0] = greater(peak[0], load(s + j));
    peak[1] = greater(peak[1], load(s + j + LANES));
  }
  const float shift = -maximum(greater(peak[0], peak[1]));
  const V shifts = all(shift) * factor;
  for (long j = 0; j < span; j += 2 * LANES) {
    const V low = exp2_for<P>(fma(load(s + j), factor, shifts));
    const V high = exp2_for<P>(fma(load(s + j + LANES), factor, shifts));
    if (KEEP) {
      store(s + j, low);
      store(s + j + LANES, high);
    }
    P::store_operand(operand, row, j, span, low, high);
    total[0] += low;
    total[1] += high;
  }
  const bool any = exempt || visible.first < visible.end;
  const Total result = {any ? sum(total[0] + total[1]) : 0.0f, shift * (bias ? 1.0f : scale * LOG2_E)};
  return result;
}

template <class P>
struct Head {
  typedef typename P::Number Number;
  const AttentionCall &call;
  long keys, padded, width, depth;
  long pitch;  // of a row of staged queries
  Number *k_panels, *v_panels, *q_block, *weights;
  float *scores, *mixed;
  Relative<P> relative;
  const int64_t *position;  // of the keys, or null
  long exempt;              // number of first keys that are visible from any distance
  long k0;                  // row of the first key

  // Memory of one task, laid out in the thread's scratch: `count` queries from row q0 on, n keys.
  Head(const AttentionCall &c, long q0, long count, long first_key, long n)
      : call(c), keys(n), padded(round_up(n, 32)), width(c.width), depth(round_up(c.width, P::DEPTH)),
        pitch(P::pitch(c.width)), relative(c, q0, count, first_key, n), k0(first_key) {
    const long dims = round_up(width, COLUMNS), rows = P::BLOCK;
    const size_t halves = (size_t)padded * (depth + dims) + rows * (pitch + padded + 2 * PADDING) + relative.halves();
    const size_t floats = (size_t)rows * (padded + PADDING + dims) + relative.floats();
    char *memory = (char *)scratch(&head_scratch, halves * sizeof(Number) + floats * 4 + 64 * 12);
    k_panels = allocate<Number>(memory, padded * depth);
    v_panels = allocate<Number>(memory, padded * dims);
    q_block = allocate<Number>(memory, rows * pitch);
    weights = allocate<Number>(memory, rows * (padded + 2 * PADDING));
    scores = allocate<float>(memory, rows * (padded + PADDING));
    mixed = allocate<float>(memory, rows * dims);
    relative.allocate([&](size_t bytes) { return allocate<char>(memory, bytes); });
  }
  template <class T>
  static T *allocate(char *&memory, size_t count) {
    T *start = (T *)memory;
    memory += (count * sizeof(T) + 63) & ~(size_t)63;
    return start;
  }

  void pack(const Number *k, const Number *v) {
    for (long j = 0; j < padded; j += COLUMNS)
      P::pack_keys(k + j * call.k_stride, call.k_stride, keys - j, width, k_panels + j * depth);
    P::pack_values(v, call.v_stride, keys, padded, width, v_panels);
    relative.prepare(k, number, q_block);
  }

  // Computes `rows` queries from row `first` on; adds the attention that keys receive to `received`.
  void attend(const Number *q, long first, long rows, Number *out, float *received) {
    const Number *queries = P::stage(q, sizeof(Number) == 2, call.q_stride, rows, width, q_block);
    Span visible = {0, keys};
    const int64_t *position_q = position ? call.position_q + first : 0;
    if (position) visible = in_window(position_q[0], position_q[rows - 1]);
    const long from = exempt ? 0 : visible.first / 32 * 32, to = round_up(visible.end, 32), span = to - from;
    const long distance = span + PADDING;  // of rows of scores
    for (long j = from; j < to; j += COLUMNS)
      P::product(queries, pitch, rows, k_panels + j * depth, depth, scores + j - from, distance);
    relative.add(queries, call.position_q + first, rows, from, at_most(to, keys), scores, distance);
    const float scale = 1.0f / __builtin_sqrtf((float)width);
    float normalizer[P::BLOCK];
    for (long i = 0; i < rows; i++) {
      Span window = position ? in_window(position_q[i], position_q[i]) : visible;
      window.first -= from, window.end -= from;
      const float *bias = call.bias ? call.bias + k0 + from : 0;
      float *row = scores + i * distance;
      const Total total =
          P::COARSE && !received
              ? exponentiate<P, false>(row, span, bias, keys - from, scale, window, exempt, weights, i)
              : exponentiate<P, true>(row, span, bias, keys - from, scale, window, exempt, weights, i);
      normalizer[i] = total.sum == 0.0f ? 0.0f : 1.0f / total.sum;  // NaN stays NaN
      if (call.logsumexp) call.logsumexp[(first + i) * call.heads + number] = total.log();
    }
    const float *query_weight = call.query_weight ? call.query_weight + first : 0;
    if (received) add_received(normalizer, query_weight, rows, span, received + from);
    mix(normalizer, rows, from, span, out);
  }

  // Keys after the exempt ones within the window of positions low..high.
  Span in_window(long low, long high) const {
    Span span = within(position + exempt, keys - exempt, low, high, call.window);
    span.first += exempt, span.end += exempt;
    return span;
  }

  void add_received(const float *normalizer, const float *query_weight, long rows, long span,
                    float *received) const {
    for (long j = 0; j < span; j += 2 * LANES) {
      V low = load(received + j), high = load(received + j + LANES);
      for (long i = 0; i < rows; i++) {
        const V weight = all(query_weight ? normalizer[i] * query_weight[i] : normalizer[i]);
        low = fma(load(scores + i * (span + PADDING) + j), weight, low);
        high = fma(load(scores + i * (span + PADDING) + j + LANES), weight, high);
      }
      store(received + j, low);
      store(received + j + LANES, high);
    }
  }

  void mix(const float *normalizer, long rows, long from, long span, Number *out) {
    const Number *p = P::operand(scores, weights);
    for (long d = 0; d < width; d += COLUMNS) {
      const Number *panel = v_panels + d * padded + from * COLUMNS;
      P::product(p, P::operand_stride(span, span + PADDING), rows, panel, span, mixed, COLUMNS);
      for (long i = 0; i < rows; i++)
        for (long j = 0; j < COLUMNS && d + j < width; j += LANES)
          P::put(out + i * call.heads * width + d + j, load(mixed + i * COLUMNS + j) * all(normalizer[i]),
                 width - d - j);
    }
  }

  long number;  // of the head
};

// received = sum over heads and pieces / (heads * sum of query weights), in a fixed order.
static void reduce_received(const AttentionCall &call, const float *partial, long text, long padded) {
  const long keys = call.cu_k[text + 1] - call.cu_k[text], from = call.cu_q[text];
  const long queries = call.cu_q[text + 1] - from, rows = call.heads * pieces_of(call, text);
  float weights = 0.0f;
  for (long i = 0; i < queries; i++) weights += call.query_weight ? call.query_weight[from + i] : 1.0f;
  const float scale = weights > 0.0f ? 1.0f / ((float)call.heads * weights) : 0.0f;
  float *out = call.received + call.cu_k[text];
  for (long j = 0; j < keys; j += LANES) {
    V total = zero();
    for (long row = 0; row < rows; row++) total += load(partial + row * padded + j);
    store_first(out + j, total * all(scale), keys - j);
  }
}

template <class P>
static void run_task(const AttentionCall &call, const Task &task, float *received) {
  typedef typename P::Number Number;
  const long text = task.text, q0 = call.cu_q[text] + task.first;
  const long width = call.width, at = task.head * width;
  long k0 = call.cu_k[text], keys = call.cu_k[text + 1] - k0;
  const long exempt = call.exempt ? call.exempt[text] : 0;
  if (call.window >= 0 && !exempt) {  // drop the keys that no query of the task sees
    const int64_t *position = call.position_q + q0;
    const Span visible =
        within(call.position_k + k0, keys, position[0], position[task.queries - 1], call.window);
    const long first = visible.first / 32 * 32;
    k0 += first, keys = visible.end - first;
    if (received) received += first;
  }
  Head<P> head(call, q0, task.queries, k0, keys);
  head.number = task.head, head.exempt = exempt;
  head.position = call.window >= 0 ? call.position_k + k0 : 0;
  head.pack((const Number *)call.k + k0 * call.k_stride + at, (const Number *)call.v + k0 * call.v_stride + at);
  for (long i = 0; i < task.queries; i += P::BLOCK) {
    const Number *q = (const Number *)call.q + (q0 + i) * call.q_stride + at;
    Number *out = (Number *)call.out + (q0 + i) * call.heads * width + at;
    head.attend(q, q0 + i, at_most(P::BLOCK, task.queries - i), out, received);
  }
}

template <class P>
static void attention(const AttentionCall &call) {
  long count = 0, sums = 0;
  long *starts = (long *)malloc((call.texts + 1) * sizeof(long));  // of the sums of each text
  for (long text = 0; text < call.texts; text++) {
    const long tasks = call.heads * pieces_of(call, text);
    starts[text] = sums;
    sums += tasks * round_up(call.cu_k[text + 1] - call.cu_k[text], 32);
    count += tasks;
  }
  Task *tasks = (Task *)malloc((count + 1) * sizeof(Task));
  float *partial = call.received ? (float *)calloc(sums + 1, sizeof(float)) : 0;
  long next = 0;
  for (long text = 0; text < call.texts; text++) {
    const long queries = call.cu_q[text + 1] - call.cu_q[text];
    const long keys = call.cu_k[text + 1] - call.cu_k[text];
    for (long head = 0; head < call.heads; head++)
      for (long first = 0; first < queries; first += PIECE) {
        const long n = at_most(PIECE, queries - first);
        const Task task = {text, head, first, n, n * keys};
        tasks[next++] = task;
      }
  }
  qsort(tasks, count, sizeof(Task), heavier);
  share_tasks(count, call.threads, [&](Tasks &shared) {
    P::begin();
    for (long i; (i = shared.take()) >= 0;) {
      const Task &task = tasks[i];
      const long padded = round_up(call.cu_k[task.text + 1] - call.cu_k[task.text], 32);
      const long row = task.head * pieces_of(call, task.text) + task.first / PIECE;
      run_task<P>(call, task, partial ? partial + starts[task.text] + row * padded : 0);
    }
    P::end();
  });
  if (partial)
    share_range(call.texts, call.threads, [&](long first, long end) {
      for (long text = first; text < end; text++)
        reduce_received(call, partial + starts[text], text,
                        round_up(call.cu_k[text + 1] - call.cu_k[text], 32));
    });
  free(partial);
  free(tasks);
  free(starts);
}
