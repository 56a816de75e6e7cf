// The tile registers of AMX: 32 x 32 sums in registers 0 to 3, of two tiles of rows times two of columns.

// Eight registers of 16 rows of 64 bytes. A constant: GCC 12 takes _tile_loadconfig to read eight bytes, and
// would leave out the writes of the others.
static const struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} TILES __attribute__((aligned(64))) = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static void configure_tiles() { _tile_loadconfig(&TILES); }

// Bytes from the start of an operand in the order of tiles, where each row takes `pitch` bytes: 16 rows of 64
// bytes in one piece, whose rows do not share lines of the cache. `column`: a multiple of 64 bytes.
static inline long tile_offset(long row, long column, long pitch) {
  return (row >> 4) * 16 * pitch + (column >> 6) * 1024 + (row & 15) * 64;
}

#if FEWER_INT8
#define FEWER_TILE_PRODUCT _tile_dpbusd  // unsigned rows times signed columns
#else
#define FEWER_TILE_PRODUCT _tile_dpbf16ps
#endif

// Add 32 rows of a times b (32 columns) to the sums. A step takes 64 bytes of each row: a tile of 1 KB
// of a and of the 16 rows `below`, and 16 lines of 128 bytes of b. `between(step)` runs beside the products.
template <class Between>
static inline void tile_chain(const void *a, const void *below, const void *b, long steps, const Between &between) {
  const char *upper = (const char *)a, *lower = (const char *)below, *columns = (const char *)b;
  for (long step = 0; step < steps; step++) {
    _tile_loadd(4, upper + step * 1024, 64);
    _tile_loadd(6, columns + step * 2048, 128);
    _tile_loadd(7, columns + step * 2048 + 64, 128);
    FEWER_TILE_PRODUCT(0, 4, 6);
    FEWER_TILE_PRODUCT(1, 4, 7);
    _tile_loadd(5, lower + step * 1024, 64);
    FEWER_TILE_PRODUCT(2, 5, 6);
    FEWER_TILE_PRODUCT(3, 5, 7);
    between(step);
  }
}
#undef FEWER_TILE_PRODUCT
static inline void clear_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
static inline void store_tiles(void *c, long c_stride) {
  char *to = (char *)c;
  const long row = c_stride * 4;
  _tile_stored(0, to, row);
  _tile_stored(1, to + 64, row);
  _tile_stored(2, to + 16 * row, row);
  _tile_stored(3, to + 16 * row + 64, row);
}

// Products of blocks of 32 rows with each panel of columns. `emit(sums, row, rows, column)` ends the sums of a few
// rows, which lie in one tile of the operand, while the next are multiplied.
template <class Sum, class Operand, class Panel, class Emit>
static inline void multiply_tiles(const Operand &operand, const Panel &panel, long rows, long columns, long steps,
                                  const Emit &emit) {
  Sum c[2][32 * 32] __attribute__((aligned(64)));
  const long piece = steps < 16 ? 8 : 4;  // each takes time to begin
  const long every = (steps * piece + 31) / 32;  // steps beside each
  long waiting_row = 0, waiting_rows = 0, waiting_column = 0;
  int side = 0;
  const auto end = [&](const Sum *finished, long from) {
    const long m = at_most(piece, waiting_rows - from);
    if (m > 0) emit(finished + from * 32, waiting_row + from, m, waiting_column);
  };
  for (long column = 0; column < columns; column += 32)
    for (long row = 0; row < rows; row += 32) {
      const Sum *finished = c[side ^ 1];
      long from = 0, next = every - 1;
      clear_tiles();
      tile_chain(operand(row), operand(row + 16), panel(column), steps, [&](long step) {
        if (step != next) return;
        end(finished, from);
        from += piece, next += every;
      });
      for (; from < 32; from += piece) end(finished, from);
      store_tiles(c[side], 32);
      waiting_row = row, waiting_rows = at_most(32, rows - row), waiting_column = column;
      side ^= 1;
    }
  for (long from = 0; from < 32; from += piece) end(c[side ^ 1], from);
}
