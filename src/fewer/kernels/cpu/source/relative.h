// Scores by distance: a bucket of distances has one position key and one position query.
//
// A bucket may also have a bias of each head. A task multiplies its keys by the position queries, and each block of its queries by the position
// keys, only for the buckets of the distances that occur in it; scores gather from both tables.

struct Buckets {
  long first, end;
};

static inline long bucket_of(const AttentionCall &call, long distance) {
  const long reach = call.reach;
  return call.bucket[reach + (distance < -reach ? -reach : distance > reach ? reach : distance)];
}

// The buckets of all distances of low..high.
static Buckets buckets_between(const AttentionCall &call, long low, long high) {
  low = low < -call.reach ? -call.reach : at_most(low, call.reach);
  high = high < -call.reach ? -call.reach : at_most(high, call.reach);
  Buckets span = {call.bucket[call.reach + low], call.bucket[call.reach + low] + 1};
  for (long distance = low; distance <= high; distance++) {
    const long bucket = call.bucket[call.reach + distance];
    if (bucket < span.first) span.first = bucket;
    if (bucket >= span.end) span.end = bucket + 1;
  }
  return span;
}

struct Extent {
  long low, high;
};

static Extent extent_of(const int64_t *position, long count) {
  Extent extent = {position[0], position[0]};
  for (long i = 1; i < count; i++) {
    if (position[i] < extent.low) extent.low = position[i];
    if (position[i] > extent.high) extent.high = position[i];
  }
  return extent;
}

template <class P>
struct Relative {
  typedef typename P::Number Number;
  const AttentionCall &call;
  const int64_t *position_k;
  long keys, depth;
  long row;  // distance of the rows of a left operand
  Extent queries;  // positions of the queries of the task
  Buckets buckets;
  long padded, pitch;
  Number *panels;              // of position queries, then of position keys
  float *of_keys, *of_queries;  // keys, and a block of queries, by bucket
  float *bias;                 // of each bucket, before the division by sqrt(width); or null
  int32_t *offset;             // of each key, from the first position of the task

  Relative(const AttentionCall &c, long q0, long count, long k0, long n)
      : call(c), position_k(c.bucket ? c.position_k + k0 : 0), keys(n), depth(round_up(c.width, P::DEPTH)),
        row(P::pitch(c.width)) {
    padded = pitch = 0;
    if (!call.bucket || !keys) return;
    queries = extent_of(call.position_q + q0, count);
    const Extent of_keys = extent_of(position_k, keys);
    buckets = buckets_between(call, queries.low - of_keys.high, queries.high - of_keys.low);
    padded = round_up(buckets.end - buckets.first, 32), pitch = padded + 16;
  }

  bool any() const { return padded > 0; }
  size_t halves() const { return (size_t)padded * depth; }
  size_t floats() const { return any() ? (size_t)(round_up(keys, P::BLOCK) + P::BLOCK) * pitch + keys + padded : 0; }

  // `place` hands out memory; `stage` is that of a block of rows as left operand.
  template <class Place>
  void allocate(const Place &place) {
    if (!any()) return;
    panels = (Number *)place(halves() * sizeof(Number));
    of_keys = (float *)place((size_t)round_up(keys, P::BLOCK) * pitch * 4);
    of_queries = (float *)place((size_t)P::BLOCK * pitch * 4);
    offset = (int32_t *)place((size_t)keys * 4);
    bias = call.bucket_bias ? (float *)place((size_t)padded * 4) : 0;
  }

  void prepare(const Number *k, long head, Number *stage) {
    if (!any()) return;
    for (long j = 0; j < keys; j++) offset[j] = (int32_t)(position_k[j] - queries.low);
    const float root = __builtin_sqrtf((float)call.width);
    for (long c = 0; bias && c < buckets.end - buckets.first; c++)
      bias[c] = call.bucket_bias[(buckets.first + c) * call.heads + head] * root;
    if (call.position_queries) {
      pack(call.position_queries, head);
      for (long j = 0; j < keys; j += P::BLOCK) {
        const long rows = at_most(P::BLOCK, keys - j);
        const Extent block = extent_of(position_k + j, rows);
        const Number *left =
            P::stage(k + j * call.k_stride, sizeof(Number) == 2, call.k_stride, rows, call.width, stage);
        multiply(left, rows, queries.low - block.high, queries.high - block.low, of_keys + j * pitch);
      }
    }
    if (call.position_keys) pack(call.position_keys, head);
  }

  void pack(const void *positions, long head) {
    const long stride = call.heads * call.width, count = buckets.end - buckets.first;
    const Number *from = (const Number *)positions + buckets.first * stride + head * call.width;
    for (long c = 0; c < padded; c += COLUMNS)
      P::pack_keys(from + c * stride, stride, count - c, call.width, panels + c * depth);
  }

  // Rows by the buckets of the distances low..high.
  void multiply(const Number *left, long rows, long low, long high, float *out) const {
    const Buckets span = buckets_between(call, low, high);
    for (long c = (span.first - buckets.first) / COLUMNS * COLUMNS; c < span.end - buckets.first; c += COLUMNS)
      P::product(left, row, rows, panels + c * depth, depth, out + c, pitch);
  }

  // Add to the scores of a block of queries with the keys from..end.
  void add(const Number *left, const int64_t *position_q, long rows, long from, long end, float *scores,
           long scores_pitch) const {
    if (!any() || from >= end) return;
    const Extent block = extent_of(position_q, rows), seen = extent_of(position_k + from, end - from);
    if (call.position_keys) multiply(left, rows, block.low - seen.high, block.high - seen.low, of_queries);
    for (long i = 0; i < rows; i++) {
      const int32_t place = (int32_t)(position_q[i] - queries.low);
      add_row(scores + i * scores_pitch, place, of_queries + i * pitch, from, end);
    }
  }

  void add_row(float *scores, int32_t place, const float *of_query, long from, long end) const {
    const int32_t reach = (int32_t)call.reach, first = (int32_t)buckets.first;
    const int32_t *bucket = call.bucket + reach;
    const bool by_query = call.position_keys, by_key = call.position_queries;
    for (long j = from; j < end; j++) {
      int32_t distance = place - offset[j];
      distance = distance < -reach ? -reach : distance > reach ? reach : distance;
      const int32_t column = bucket[distance] - first;
      float score = by_query ? of_query[column] : 0.0f;
      if (bias) score += bias[column];
      if (by_key) score += of_keys[j * pitch + column];
      scores[j - from] += score;
    }
  }
};
