// Layers in one call, so that nothing but kernels runs between them.
#include "abi.h"
#include "exports.h"

static void attend(const Layer &layer, const LayersCall &call, const float *x) {
  const Norm none = {0, 0, 0, 0};
  const Weight &project = layer.project, &output = layer.output;
  const LinearCall projecting = {
      x, project.k, call.rows, layer.attention_norm, project, 0, 0, 0, 0, none, call.projected, project.n, false,
      call.bf16, NONE, layer.project_isa, call.threads};
  fewer_linear(&projecting);
  const int64_t inner = output.k, width = inner / layer.heads, bytes = call.bf16 ? 2 : 4;
  if (layer.cos) {
    const int64_t heads = layer.heads * (layer.rotates_values ? 3 : 2);
    const RotateCall rotating = {call.projected, project.n, call.rows, heads, width, layer.cos, layer.sin,
                                 call.position, call.bf16, layer.isa, call.threads};
    fewer_rotate(&rotating);
  }
  const char *q = (const char *)call.projected, *k = q + inner * bytes, *v = k + inner * bytes;
  const int64_t *column = layer.bucket || layer.window >= 0 ? call.column : 0;
  const AttentionCall attention = {
      q, k, v, project.n, project.n, project.n, call.cu, call.cu, call.texts, layer.heads, width,
      column, column, layer.window, 0, layer.bucket, layer.reach, layer.position_keys, layer.position_queries,
      layer.bucket_bias, 0, 0, call.received, 0, call.context, call.bf16, layer.attention_isa, call.threads};
  fewer_attention(&attention);
  const LinearCall finishing = {
      call.context, inner, call.rows, none, output, 0, 0, x, project.k, layer.output_norm, call.attended,
      output.n, call.bf16, false, NONE, layer.output_isa, call.threads};
  fewer_linear(&finishing);
}

extern "C" void fewer_layers(const LayersCall *call) {
  if (!call->count) attend(*call->layers, *call, call->x);
  for (int64_t i = 0; i < call->count; i++) {
    const Layer &layer = call->layers[i];
    attend(layer, *call, i ? call->out : call->x);
    const FeedForwardCall block = {
        call->attended, call->rows, layer.input_norm, layer.up, layer.gate, layer.down, layer.last_norm,
        call->out, layer.activation, layer.feed_forward_isa, call->threads};
    fewer_feed_forward(&block);
  }
}
