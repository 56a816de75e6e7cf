// Block-Skim's predictor: the attention between pairs of blocks, through two 3 x 3 convolutions, each
// rectified and halved, to two logits. The logits of a block depend on nothing else.

static thread_local Scratch block_cnn_scratch;

enum { BORDER = 1, KERNEL = 3 };

// Square maps, channel after channel, with a border of zeros; a vector may read past the end of a row.
struct Maps {
  long side, pitch;
  float *start;
  Maps(long n, float *memory) : side(n), pitch(pitch_of(n)), start(memory) {}
  static long pitch_of(long n) { return round_up(n, LANES) + LANES; }
  static size_t floats(long channels, long n) { return channels * (n + 2 * BORDER) * pitch_of(n); }
  float *row(long channel, long y) const {  // y from -1 to side
    return start + (channel * (side + 2 * BORDER) + y + BORDER) * pitch + BORDER;
  }
};

static inline float number(const float *p) { return *p; }
static inline float number(const uint16_t *p) {  // bf16
  const uint32_t bits = (uint32_t)*p << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// The attention of the tokens of one block to those of another, one map per head.
template <class N>
static void attend_between(const BlockCnnCall &call, const int64_t *rows_q, const int64_t *rows_k,
                           const Maps &maps, long channel, float *keys) {
  const N *q = (const N *)call.q, *k = (const N *)call.k;
  const long size = call.size, width = call.width, span = round_up(size, LANES);
  const float scale = LOG2_E / __builtin_sqrtf((float)width);
  for (long head = 0; head < call.heads; head++) {
    for (long j = 0; j < size; j++)
      for (long d = 0; d < width; d++)
        keys[d * span + j] =
            rows_k[j] < 0 ? 0.0f : number(k + rows_k[j] * call.k_stride + head * width + d);
    for (long i = 0; i < size; i++) {
      float *out = maps.row(channel + head, i);
      if (rows_q[i] < 0) {
        fill(out, 0, size, 0.0f);
        continue;
      }
      const N *query = q + rows_q[i] * call.q_stride + head * width;
      const V shift = all(-LOG2_E * call.logsumexp[rows_q[i] * call.heads + head]);
      for (long j = 0; j < size; j += LANES) {
        V score = zero();
        for (long d = 0; d < width; d++)
          score = fma(all(number(query + d)), load(keys + d * span + j), score);
        store_first(out + j, exp2_of(fma(score, all(scale), shift)), size - j);
      }
      for (long j = 0; j < size; j++)
        if (rows_k[j] < 0)
          out[j] = 0.0f;
        else if (call.participation)
          out[j] = call.participation[rows_k[j]] > 0.0f ? out[j] * call.participation[rows_k[j]] : 0.0f;
    }
  }
}

// G output channels of two rows, rectified and averaged over squares of four.
template <int G>
static void convolve(const Maps &in, long channels, const float *weight, const float *bias, long outs,
                     long out, const Maps &into, float *sums) {
  const long span = round_up(in.side, LANES);
  for (long y = 0; y < in.side; y += 2) {
    for (long x = 0; x < in.side; x += LANES) {
      V pooled[G];
      for (long down = 0; down < 2; down++) {
        V sum[G];
        for (int g = 0; g < G; g++) sum[g] = all(bias[out + g]);
        for (long channel = 0; channel < channels; channel++)
          for (long dy = 0; dy < KERNEL; dy++) {
            const float *row = in.row(channel, y + down + dy - BORDER) - BORDER + x;
            const float *w = weight + (channel * KERNEL + dy) * KERNEL * outs + out;
            for (long dx = 0; dx < KERNEL; dx++, w += outs) {
              const V input = load(row + dx);
              for (int g = 0; g < G; g++) sum[g] = fma(all(w[g]), input, sum[g]);
            }
          }
        for (int g = 0; g < G; g++) {
          const V positive = greater(zero(), sum[g]);
          pooled[g] = down ? pooled[g] + positive : positive;
        }
      }
      for (int g = 0; g < G; g++) store(sums + g * span + x, pooled[g]);
    }
    for (int g = 0; g < G; g++) {
      float *row = into.row(out + g, y / 2);
      for (long x = 0; x < into.side; x++)
        row[x] = 0.25f * (sums[g * span + 2 * x] + sums[g * span + 2 * x + 1]);
    }
  }
}

static void convolve_all(const Maps &in, long channels, const float *weight, const float *bias, long outs,
                         const Maps &into, float *sums) {
  long out = 0;
  for (; out + 12 <= outs; out += 12) convolve<12>(in, channels, weight, bias, outs, out, into, sums);
  for (; out + 4 <= outs; out += 4) convolve<4>(in, channels, weight, bias, outs, out, into, sums);
  for (; out < outs; out++) convolve<1>(in, channels, weight, bias, outs, out, into, sums);
}

static void compute_block(const BlockCnnCall &call, long block) {
  const long size = call.size, heads = call.heads, channels = call.maps * heads;
  const long span = round_up(size, LANES), half = size / 2, quarter = size / 4;
  const size_t wide = Maps::floats(channels, size), narrow = Maps::floats(heads, half);
  const size_t last = Maps::floats(heads, quarter), count = wide + narrow + last;
  float *memory = (float *)scratch(&block_cnn_scratch, (count + (12 + call.width) * span) * sizeof(float));
  __builtin_memset(memory, 0, count * sizeof(float));
  const Maps attention(size, memory), halved(half, memory + wide), quartered(quarter, memory + wide + narrow);
  float *sums = memory + count, *keys = sums + 12 * span;
  __builtin_memset(keys, 0, call.width * span * sizeof(float));
  for (long map = 0; map < call.maps; map++) {
    const int64_t *pair = call.pairs + (block * call.maps + map) * 2;
    const int64_t *rows_q = call.rows + pair[0] * size, *rows_k = call.rows + pair[1] * size;
    if (call.bf16)
      attend_between<uint16_t>(call, rows_q, rows_k, attention, map * heads, keys);
    else
      attend_between<float>(call, rows_q, rows_k, attention, map * heads, keys);
  }
  convolve_all(attention, channels, call.first, call.first_bias, heads, halved, sums);
  convolve_all(halved, heads, call.second, call.second_bias, heads, quartered, sums);
  for (long label = 0; label < 2; label++) {
    const float *w = call.last + label * heads * quarter * quarter;
    float total = 0.0f;
    for (long head = 0; head < heads; head++)
      for (long y = 0; y < quarter; y++)
        for (long x = 0; x < quarter; x++) total += *w++ * quartered.row(head, y)[x];
    call.out[block * 2 + label] = total + call.last_bias[label];
  }
}

static void block_cnn(const BlockCnnCall &call) {
  share_tasks(call.blocks, call.threads, [&](Tasks &tasks) {
    for (long block; (block = tasks.take()) >= 0;) compute_block(call, block);
  });
}
