// Merge the tokens of each text that are pruned into the best of them.
// A product is rounded before it is added, as by PyTorch's operators, whose bits these are.
#pragma GCC optimize("fp-contract=off")
#include "abi.h"
#include "exports.h"

// Equal scores: the earlier one. Returns -1 where no token of the text is pruned.
static int64_t find_best(const MergeCall &call, int64_t begin, int64_t end) {
  int64_t best = -1;
  for (int64_t i = begin; i < end; i++)
    if (!call.keep[i] && !call.spared[i] && (best < 0 || call.scores[i] > call.scores[best])) best = i;
  return best;
}

static float weight_of(const MergeCall &call, int64_t i) {
  return call.scores[i] > call.least ? call.scores[i] : call.least;
}

extern "C" void fewer_merge(const MergeCall *call) {
  for (int64_t text = 0; text < call->texts; text++) {
    const int64_t begin = call->cu[text], end = call->cu[text + 1], width = call->width;
    __builtin_memcpy(call->kept + begin, call->keep + begin, end - begin);
    __builtin_memcpy(call->states + begin * width, call->hidden + begin * width, (end - begin) * width * sizeof(float));
    const int64_t best = find_best(*call, begin, end);
    if (best < 0) continue;
    call->kept[best] = 1;
    float total = 0.0f, *mean = call->states + best * width;
    for (int64_t i = begin; i < end; i++)
      if (!call->keep[i] && !call->spared[i]) total += weight_of(*call, i);
    __builtin_memset(mean, 0, width * sizeof(float));
    for (int64_t i = begin; i < end; i++) {
      if (call->keep[i] || call->spared[i]) continue;
      const float share = weight_of(*call, i) / total, *state = call->hidden + i * width;
      for (int64_t j = 0; j < width; j++) mean[j] += share * state[j];
    }
  }
}
