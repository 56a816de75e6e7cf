// Rotary positions: each pair (x, y) of a head becomes (x cos - y sin, y cos + x sin).

static inline V load_state(const void *x, bool half, long at, long lanes) {
#if FEWER_BF16 || (FEWER_INT8 && FEWER_LANES == 16)
  if (half) return load_half((const Half *)x + at, lanes);
#endif
  const float *from = (const float *)x + at;
  return lanes >= LANES ? load(from) : load_first(from, lanes, 0.0f);
}

static void rotate_row(const RotateCall &call, long row) {
  const long pairs_of_head = call.width / 2;
  const bool half = call.bf16 != 0;
  const float *cos = call.cos + call.position[row] * call.width;
  const float *sin = call.sin + call.position[row] * call.width;
  for (long head = 0; head < call.heads; head++)
    for (long j = 0; j < pairs_of_head; j += LANES) {
      const long lanes = pairs_of_head - j, at = row * call.stride + head * call.width + j;
      const V c = load_state(cos, false, j, lanes), s = load_state(sin, false, j, lanes);
      const V x = load_state(call.x, half, at, lanes);
      const V y = load_state(call.x, half, at + pairs_of_head, lanes);
      store_state<false>(call.x, half, at, x * c - y * s, lanes);
      store_state<false>(call.x, half, at + pairs_of_head, y * c + x * s, lanes);
    }
}

static void rotate(const RotateCall &call) {
  share_range(call.rows, call.threads, [&](long first, long end) {
    for (long row = first; row < end; row++) rotate_row(call, row);
  });
}
