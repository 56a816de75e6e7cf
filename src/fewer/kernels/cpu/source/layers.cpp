// Layers in one call, so that nothing but kernels runs between them.
#include "abi.h"
#include "exports.h"
#include <stdlib.h>

// Project rows into memory of `weight.n` columns, and rotate the first `turned` of them.
static void project(const Layer &layer, const LayersCall &call, const Weight &weight, const float *x, int64_t rows,
                    const int64_t *position, int64_t turned, void *out) {
  const Norm none = {0, 0, 0, 0};
  const LinearCall projecting = {x, weight.k, rows, layer.attention_norm, weight, 0, 0, 0, 0, none, out, weight.n,
                                 false, call.bf16, NONE, layer.project_isa, call.threads};
  fewer_linear(&projecting);
  if (!layer.cos) return;
  const int64_t width = layer.output.k / layer.heads;
  const RotateCall rotating = {out, weight.n, rows, turned / width, width, layer.cos, layer.sin, position,
                               call.bf16, layer.isa, call.threads};
  fewer_rotate(&rotating);
}

static void attend(const Layer &layer, const LayersCall &call, const float *x) {
  const Norm none = {0, 0, 0, 0};
  const Weight &output = layer.output;
  const bool parted = call.queries.cu;
  const Queries all = {x, call.rows, call.cu, call.column, call.position};
  const Queries &queries = parted ? call.queries : all;
  const int64_t inner = output.k, width = inner / layer.heads, bytes = call.bf16 ? 2 : 4;
  const int64_t turned = layer.rotates_values ? 2 * inner : inner;  // of keys and values
  char *projected = (char *)call.projected;
  int64_t stride_q = 3 * inner, stride = 3 * inner;
  const char *q = projected, *k = projected + inner * bytes;
  if (parted) {
    char *of_queries = projected + call.rows * 2 * inner * bytes;
    project(layer, call, layer.project_queries, queries.x, queries.rows, queries.position, inner, of_queries);
    project(layer, call, layer.project_rest, x, call.rows, call.position, turned, projected);
    q = of_queries, k = projected, stride_q = inner, stride = 2 * inner;
  } else {
    project(layer, call, layer.project, x, call.rows, call.position, inner + turned, projected);
  }
  const bool places = layer.bucket || layer.window >= 0;
  const AttentionCall attention = {
      q, k, k + inner * bytes, stride_q, stride, stride, queries.cu, call.cu, call.texts,
      layer.heads, width, places ? queries.column : 0, places ? call.column : 0, layer.window, 0, layer.bucket,
      layer.reach, layer.position_keys, layer.position_queries, layer.bucket_bias, 0, 0, call.received, 0,
      call.context, call.bf16, layer.attention_isa, call.threads};
  fewer_attention(&attention);
  const LinearCall finishing = {
      call.context, inner, queries.rows, none, output, 0, 0, queries.x, output.n,
      layer.output_norm, call.attended, output.n, call.bf16, false, NONE, layer.output_isa, call.threads};
  fewer_linear(&finishing);
}

// All layers of some texts.
static void run(const LayersCall &call) {
  if (!call.count) attend(*call.layers, call, call.x);
  for (int64_t i = 0; i < call.count; i++) {
    const Layer &layer = call.layers[i];
    attend(layer, call, i ? call.out : call.x);
    const FeedForwardCall block = {
        call.attended, call.queries.cu ? call.queries.rows : call.rows, layer.input_norm, layer.up, layer.gate,
        layer.down, layer.last_norm, call.out, layer.activation, layer.feed_forward_isa, call.threads};
    fewer_feed_forward(&block);
  }
}

template <class Number>
static Number *from(Number *start, int64_t count) { return start ? start + count : 0; }

// The offsets of some texts, from 0 on.
static int64_t *shift(const int64_t *cu, int64_t texts, int64_t *to) {
  for (int64_t i = 0; i <= texts; i++) to[i] = cu[i] - cu[0];
  return to;
}

// The texts from `first` up to `end`; `offsets` is memory.
static LayersCall part_of(const LayersCall &call, int64_t first, int64_t end, int64_t *offsets) {
  LayersCall part = call;
  const int64_t row = call.cu[first], texts = end - first, width = call.layers->project.k;
  part.texts = texts, part.rows = call.cu[end] - row;
  part.cu = shift(call.cu + first, texts, offsets);
  part.x = call.x + row * width;
  part.column = from(call.column, row), part.position = from(call.position, row);
  part.received = from(call.received, row);
  int64_t written = row;
  if (call.queries.cu) {
    const Queries &queries = call.queries;
    written = queries.cu[first];
    part.queries = {queries.x + written * width, queries.cu[end] - written,
                    shift(queries.cu + first, texts, offsets + texts + 1), from(queries.column, written),
                    from(queries.position, written)};
  }
  part.out = from(call.out, written * width);
  if (!call.count) part.attended = call.attended + written * width;
  return part;
}

// Some texts after the other, so that their states stay in the cache from map to map and layer to layer.
extern "C" void fewer_layers(const LayersCall *call) {
  if (call->rows <= call->group) return run(*call);
  int64_t *offsets = (int64_t *)malloc(2 * (call->texts + 1) * sizeof(int64_t));
  for (int64_t first = 0, end; first < call->texts; first = end) {
    end = first + 1;
    while (end < call->texts && call->cu[end + 1] - call->cu[first] <= call->group) end++;
    run(part_of(*call, first, end, offsets));
  }
  free(offsets);
}
