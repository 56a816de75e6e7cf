// Blocks of neighbouring tokens: where they lie, what their tokens are together, and which of them stay.
// Sums are taken token by token and not contracted, as by PyTorch's operators, whose bits these are.
#pragma GCC optimize("fp-contract=off")
#include "abi.h"
#include "exports.h"

extern "C" void fewer_lay_blocks(const LayBlocksCall *call) {
  const int64_t per_row = (call->columns + call->size - 1) / call->size;
  int64_t blocks = 0, prunable = 0, passage = 0, question = 0;
  for (int64_t text = 0; text < call->texts; text++) {
    const int64_t begin = call->cu[text], end = call->cu[text + 1];
    call->passage_cu[text] = passage;
    call->question_cu[text] = question;
    const int64_t first = passage;
    for (int64_t i = begin; i < end; i++) {
      const int64_t number = text * per_row + call->slot[i] % call->columns / call->size;
      if (i == begin || number != call->number[blocks - 1]) {
        call->number[blocks] = number;
        call->text[blocks++] = text;
      }
      call->index[i] = blocks - 1;
      if (call->spared[i]) continue;
      if (!prunable || call->prunable[prunable - 1] != blocks - 1) {
        call->prunable[prunable] = blocks - 1;
        call->prunable_number[prunable] = number;
        call->prunable_text[prunable++] = text;
      }
      call->place[passage] = prunable - 1;
      call->passage[passage++] = i;
    }
    if (passage == first) continue;
    for (int64_t i = begin; i < end; i++)
      if (call->spared[i]) call->question[question++] = i;
  }
  call->passage_cu[call->texts] = passage;
  call->question_cu[call->texts] = question;
  const int64_t counts[] = {blocks, prunable, passage, question};
  __builtin_memcpy(call->counts, counts, sizeof counts);
}

// The highest and the mean of each feature over the tokens of each block, side by side.
static void pool_tokens(const PoolBlocksCall &call, int64_t stride) {
  const int64_t width = call.width;
  for (int64_t begin = 0, end; begin < call.tokens; begin = end) {
    const int64_t block = call.place[begin];
    float *highest = call.out + block * stride, *mean = highest + width;
    __builtin_memcpy(highest, call.features + begin * width, width * sizeof(float));
    __builtin_memset(mean, 0, width * sizeof(float));
    for (end = begin; end < call.tokens && call.place[end] == block; end++)
      for (int64_t j = 0; j < width; j++) {
        const float x = call.features[end * width + j];
        highest[j] = x > highest[j] || x != x ? x : highest[j];
        mean[j] += x;
      }
    for (int64_t j = 0; j < width; j++) mean[j] /= (float)(end - begin);
  }
}

extern "C" void fewer_pool_blocks(const PoolBlocksCall *call) {
  const int64_t pooled = 2 * call->width, stride = (2 + call->near) * pooled;
  pool_tokens(*call, stride);
  for (int64_t begin = 0, end; begin < call->blocks; begin = end) {
    float *mean = call->out + begin * stride + pooled;  // made where the first block's own goes
    __builtin_memset(mean, 0, pooled * sizeof(float));
    for (end = begin; end < call->blocks && call->text[end] == call->text[begin]; end++)
      for (int64_t j = 0; j < pooled; j++) mean[j] += call->out[end * stride + j];
    for (int64_t j = 0; j < pooled; j++) mean[j] /= (float)(end - begin);
    for (int64_t block = end - 1; block >= begin; block--) {  // the first last, whose place holds the mean
      float *own = call->out + block * stride;
      for (int64_t j = 0; j < pooled; j++) own[pooled + j] = own[j] - mean[j];
      for (int64_t step = 0; step < call->near; step++) {
        const int64_t wanted = call->number[block] + call->steps[step];
        float *out = own + (2 + step) * pooled;
        __builtin_memset(out, 0, pooled * sizeof(float));
        for (int64_t other = begin; other < end; other++)
          if (call->number[other] == wanted) __builtin_memcpy(out, call->out + other * stride, pooled * sizeof(float));
      }
    }
  }
}

static const Norm NO_NORM = {0, 0, 0, 0};

static void gather(const float *rows, const int64_t *index, int64_t count, int64_t width, float *out) {
  for (int64_t i = 0; i < count; i++) __builtin_memcpy(out + i * width, rows + index[i] * width, width * sizeof(float));
}

extern "C" void fewer_score_blocks(const ScoreBlocksCall *call) {
  const ScoreBlocksCall &c = *call;
  const int64_t width = c.passage_map.k, span = c.heads * c.size, features = 2 * c.heads + c.hint_width;
  const int64_t query_stride = c.passage_map.n, key_stride = c.question_map.n, joined = c.inner_map.k;
  float *rows = c.scratch, *queries = rows + (c.passages > c.questions ? c.passages : c.questions) * width;
  float *keys = queries + c.passages * query_stride, *context = keys + c.questions * key_stride;
  float *match = context + c.passages * span, *table = match + c.passages * c.heads;
  float *pooled = table + c.passages * features, *inner = pooled + c.blocks * joined;
  const auto multiply = [&](const float *x, int64_t count, const Norm &norm, const Weight &w, const float *plus,
                            int64_t plus_stride, float *out, int64_t stride, int activation) {
    const LinearCall linear = {x, w.k, count, norm, w, 0, 0, plus, plus_stride, NO_NORM, out, stride,
                               false, false, activation, c.isa, c.threads};
    fewer_linear(&linear);
  };
  gather(c.hidden, c.passage, c.passages, width, rows);
  multiply(rows, c.passages, c.norm, c.passage_map, 0, 0, queries, query_stride, NONE);
  gather(c.hidden, c.question, c.questions, width, rows);
  multiply(rows, c.questions, c.norm, c.question_map, 0, 0, keys, key_stride, NONE);
  AttentionCall attention = {};
  attention.q = queries, attention.k = keys, attention.v = keys + span;
  attention.q_stride = query_stride, attention.k_stride = attention.v_stride = key_stride;
  attention.cu_q = c.passage_cu, attention.cu_k = c.question_cu;
  attention.texts = c.texts, attention.heads = c.heads, attention.width = c.size;
  attention.window = -1;
  attention.logsumexp = match, attention.out = context;
  attention.isa = c.isa, attention.threads = c.threads;
  fewer_attention(&attention);
  multiply(context, c.passages, NO_NORM, c.context_map, queries + span, query_stride, table + c.heads, features, NONE);
  for (int64_t i = 0; i < c.passages; i++) {
    __builtin_memcpy(table + i * features, match + i * c.heads, c.heads * sizeof(float));
    if (c.hints)
      __builtin_memcpy(table + i * features + 2 * c.heads, c.hints + c.passage[i] * c.hint_width, c.hint_width * sizeof(float));
  }
  const PoolBlocksCall pool = {table, c.place, c.number, c.text, c.steps, c.passages, features, c.blocks, c.near, pooled};
  fewer_pool_blocks(&pool);
  multiply(pooled, c.blocks, NO_NORM, c.inner_map, 0, 0, inner, c.inner_map.n, GELU);
  multiply(inner, c.blocks, NO_NORM, c.last_map, 0, 0, c.logits, 2, NONE);
}

extern "C" void fewer_keep_blocks(const KeepBlocksCall *call) {
  float *stays = call->scratch;
  for (int64_t block = 0; block < call->blocks; block++) stays[block] = 1.0f;
  for (int64_t begin = 0, end; begin < call->scored; begin = end) {
    int64_t best = begin;
    for (end = begin; end < call->scored && call->text[end] == call->text[begin]; end++) {
      stays[call->block[end]] = call->chance[end] >= call->threshold;
      if (call->chance[end] > call->chance[best]) best = end;
    }
    stays[call->block[best]] = 1.0f;
  }
  for (int64_t i = 0; i < call->tokens; i++) call->keep[i] = stays[call->index[i]] != 0.0f;
  for (int64_t block = 0; block < call->blocks; block++) stays[block] = 0.0f;
  for (int64_t i = 0; i < call->scored; i++) stays[call->block[i]] = call->logits[2 * i + 1] - call->logits[2 * i];
  for (int64_t i = 0; i < call->tokens; i++) call->odds[i] = stays[call->index[i]];
}
