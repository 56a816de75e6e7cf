// Vectors of four floats by the vector extensions of GCC and Clang, for every processor.

typedef float V __attribute__((vector_size(16)));
typedef int32_t Bits __attribute__((vector_size(16)));
enum { LANES = 4, ROWS = 8, COLUMNS = 8 };  // of 32 registers, as ARM has: 16 sums, two weights, inputs
static inline V load(const float *p) {
  V x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
static inline void store(float *p, V x) { __builtin_memcpy(p, &x, sizeof x); }
static inline V all(float x) { return (V){x, x, x, x}; }
static inline V fma(V a, V b, V c) { return a * b + c; }  // one instruction where there is one
static inline V greater(V a, V b) { return a > b ? a : b; }
static inline V smaller(V a, V b) { return a < b ? a : b; }
static inline V in_range_of_powers(V x) { return smaller(all(127.0f), greater(all(-127.0f), x)); }
static inline V rounded(V x) {  // |x| < 2^22; ties to even
  const V shift = all(12582912.0f);  // 1.5 * 2^23
  return x + shift - shift;
}
static inline V scaled_by_power(V x, V n) {  // n in [-127, 127]; -127 gives 0
  return x * (V)((__builtin_convertvector(n, Bits) + 127) << 23);
}
static inline V where_negative(V x, V a, V b) { return (Bits)x < 0 ? a : b; }
static inline V absolute(V x) { return (V)((Bits)x & 0x7fffffff); }
static inline float sum(V x) { return (x[0] + x[2]) + (x[1] + x[3]); }
static inline float maximum(V x) {
  float largest = x[0];
  for (int i = 1; i < LANES; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}
// The first n lanes of p (none if n is negative), the others `rest`.
static inline V load_first(const float *p, long n, float rest) {
  V x = all(rest);
  for (int i = 0; i < LANES && i < n; i++) x[i] = p[i];
  return x;
}
static inline void store_first(float *p, V x, long n) {
  if (n >= LANES) return store(p, x);
  for (int i = 0; i < n; i++) p[i] = x[i];
}
