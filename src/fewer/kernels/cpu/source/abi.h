// The arguments of the exported functions: plain structs, mirrored field by field in structs.py.
#pragma once
#include <stdint.h>

enum Isa {
  GENERIC = 0, AVX2 = 1, AVX512 = 2, AVX512_BF16 = 3, AMX_BF16 = 4, AVX2_INT8 = 5, AVX512_VNNI = 6, AMX_INT8 = 7
};
enum Activation { NONE = 0, GELU = 1, GELU_TANH = 2, RELU = 3, SILU = 4, TANH = 5 };

// A weight (n, k) packed by fewer_pack for the same isa; its bias has n entries or is null. For int8
// the packed numbers are integers in [-127, 127], and `scale` has the value of 1 for each of n outputs.
struct Weight {
  const void *packed;
  const float *bias;
  const float *scale;
  int64_t n, k;
};

// LayerNorm over the width, or RMS norm; none if gamma is null.
struct Norm {
  const float *gamma, *beta;
  double eps;
  int32_t rms;
};

// out = norm(act(input_norm(x) W^T + b) factor + residual), row by row. Strides count elements.
struct LinearCall {
  const void *x;
  int64_t x_stride, rows;
  struct Norm input_norm;  // needs a float x
  struct Weight weight;
  const float *factor;  // (rows, factor_stride) or null
  int64_t factor_stride;
  const float *residual;  // (rows, residual_stride) or null
  int64_t residual_stride;
  struct Norm norm;  // needs a float output
  void *out;
  int64_t out_stride;
  int32_t x_bf16, out_bf16, activation, isa, threads;
};

// out = norm(x + down(act(up(y)) gate(y))) with y = input_norm(x), a feed-forward block.
struct FeedForwardCall {
  const float *x;
  int64_t rows;
  struct Norm input_norm;
  struct Weight up, gate, down;  // no gate if its packed numbers are null
  struct Norm norm;
  float *out;
  int32_t activation, isa, threads;
};

// Rotary positions, in place: the pairs (i, i + width / 2) of each head are turned.
struct RotateCall {
  void *x;
  int64_t stride, rows, heads, width;  // width of a head
  const float *cos, *sin;              // (positions, width), of which the first halves are read
  const int64_t *position;
  int32_t bf16, isa, threads;
};

// Attention within each text; kernels/call.py documents the fields.
struct AttentionCall {
  const void *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  const int64_t *cu_q, *cu_k;
  int64_t texts, heads, width;              // width of a head
  const int64_t *position_q, *position_k;   // read if window >= 0, and by relative scores
  int64_t window;                           // -1: none
  const int64_t *exempt;                    // count of first keys visible in spite of it; or null
  const int32_t *bucket;                    // row of the distances -reach..reach; null: no relative scores
  int64_t reach;
  const void *position_keys;                // (buckets, heads * width) for queries, or null
  const void *position_queries;             // (buckets, heads * width) for keys, or null
  const float *bucket_bias;                 // (buckets, heads), or null
  const float *bias;                        // added to the scores of a key, or null
  const float *query_weight;                // weight of a query in received, or null
  float *received;                          // (keys), or null
  float *logsumexp;                         // (queries, heads), or null
  void *out;
  int32_t bf16, isa, threads;
};

// Two logits per block; methods/pruning/block_cnn.py documents the fields.
struct BlockCnnCall {
  const void *q, *k;
  int64_t q_stride, k_stride;
  const float *logsumexp;                         // (tokens, heads)
  const float *participation;                     // (tokens), or null: all 1
  const int64_t *rows;                            // (all blocks, size): tokens, -1 for none
  const int64_t *pairs;                           // (blocks, maps, 2): query block, key block
  int64_t blocks, maps, heads, width, size;
  const float *first, *first_bias;                // (maps * heads, 3, 3, heads), norm folded in
  const float *second, *second_bias;              // (heads, 3, 3, heads)
  const float *last, *last_bias;                  // (2, heads, size / 4, size / 4)
  float *out;                                     // (blocks, 2)
  int32_t bf16, isa, threads;                     // bf16: queries and keys
};

// out = norm(word + segment + position), one row per token; tables may be null.
struct EmbedCall {
  const float *words, *segments, *positions;
  const int64_t *word, *segment, *position;
  int64_t rows, width;
  struct Norm norm;
  float *out;
  int32_t isa, threads;
};

// In each text, tokens that are neither kept nor spared are merged into the best of them, which stays.
struct MergeCall {
  const float *hidden, *scores;  // (rows, width), (rows)
  const uint8_t *keep, *spared;  // (rows), 0 or 1
  const int64_t *cu;
  int64_t texts, width;
  float least;      // weight of a token, where its score is below
  uint8_t *kept;    // (rows)
  float *states;    // (rows, width)
};

// Tokens in blocks of neighbouring columns. Lists have room for `tokens`, starts for `texts` + 1.
struct LayBlocksCall {
  const int64_t *slot;             // (tokens): index in the padded grid, row by row
  const uint8_t *spared;           // (tokens), 0 or 1: never pruned
  const int64_t *cu;
  int64_t texts, columns, size;    // columns of the grid and of a block
  int64_t *number, *text;          // of each block: text * blocks of a row + block; text
  int64_t *index;                  // (tokens): the block
  int64_t *prunable, *prunable_number, *prunable_text;  // blocks with a token that may be pruned
  int64_t *passage, *place, *passage_cu;  // those tokens, their block among the prunable, where texts start
  int64_t *question, *question_cu;        // spared tokens of texts that have such a token
  int64_t *counts;                        // blocks, prunable blocks, tokens of passages, of questions
};

// Features of blocks: of those of their tokens the highest and the mean; how far these lie above the
// mean of the text's blocks; and these of the blocks so many steps away, 0 where there is none.
struct PoolBlocksCall {
  const float *features;        // (tokens, width)
  const int64_t *place;         // (tokens): the block, ascending; each has a token
  const int64_t *number, *text; // (blocks), ascending
  const int64_t *steps;
  int64_t tokens, width, blocks, near;  // near: how many steps
  float *out;                   // (blocks, (2 + near) * 2 * width)
};

// A predictor of blocks by late interaction: tokens of passages attend to those of questions, by heads
// of its own; what they match is pooled by block, and two maps make two logits of it.
struct ScoreBlocksCall {
  const float *hidden;                        // (tokens, norm's width)
  struct Norm norm;                           // of the rows of hidden
  struct Weight passage_map, question_map;    // to queries and salience; to keys and values
  struct Weight context_map, inner_map, last_map;
  const int64_t *passage, *passage_cu, *question, *question_cu;
  int64_t texts, passages, questions, heads, size;  // size of a head
  const float *hints;                         // (tokens, hint_width), or null
  int64_t hint_width;
  const int64_t *place, *number, *text, *steps;  // as in PoolBlocksCall
  int64_t blocks, near;
  float *scratch;                             // blocks.py knows how much
  float *logits;                              // (blocks, 2)
  int32_t isa, threads;
};

// Which tokens stay: those of scored blocks whose chance is no lower than the threshold or the first
// highest of their text, and those of all other blocks. Also the log odds of each token's block.
struct KeepBlocksCall {
  const float *logits;   // (scored, 2)
  const float *chance;   // (scored)
  const int64_t *block, *text;  // (scored): number among all blocks; text, ascending
  const int64_t *index;  // (tokens): the block
  int64_t scored, blocks, tokens;
  float threshold;
  float *scratch;        // (blocks)
  uint8_t *keep;         // (tokens)
  float *odds;           // (tokens)
};

// A layer as it is in every pass: attention between two norms or none, and a feed-forward block.
struct Layer {
  struct Norm attention_norm, output_norm, input_norm, last_norm;  // before and after each block
  struct Weight project;                                           // to queries, keys and values
  struct Weight project_queries, project_rest;                     // parts of it, where it can be parted
  struct Weight output, up, gate, down;
  int64_t heads;
  const int32_t *bucket;  // relative scores, as in AttentionCall
  int64_t reach;
  const void *position_keys, *position_queries;
  const float *bucket_bias;
  int64_t window;          // -1: none
  const float *cos, *sin;  // of positions, as in RotateCall; null: nothing is rotated
  int32_t rotates_values, activation, isa;  // isa: of what is rotated
  int32_t project_isa, output_isa, feed_forward_isa, attention_isa;
};

// The rows of a layer that are queries and read on, where the others are keys and values alone.
struct Queries {
  const float *x;
  int64_t rows;
  const int64_t *cu, *column, *position;
};

// Some layers, one after the other; or the attention of one, without its feed-forward block.
struct LayersCall {
  const struct Layer *layers;
  int64_t count;  // 0: the attention of the first, which is written to attended
  const float *x;  // (rows, width of the model)
  int64_t rows, texts;
  int64_t group;                 // rows of texts that are read together, or of one longer text
  const int64_t *cu, *column;    // columns are read by windows and relative scores only
  const int64_t *position;       // of what is rotated
  struct Queries queries;        // null cu: all rows; else count is 0 or 1
  void *projected, *context;     // (group, outputs of project) and (group, inputs of output), memory
  float *attended, *out;         // (queries, width of the model); memory unless count is 0, and the output
  float *received;               // (rows) that each key receives if count is 0, or null
  int32_t bf16, threads;         // bf16: projected and context
};
