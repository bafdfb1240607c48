#include "core/ops/labels.h"

#include "core/error.h"
#include "core/ops/tensor_view.h"

namespace lora {

void ThrowLabel(const char* op, int64_t vocab, int64_t label, int64_t row) {
  Throw("ERR_DATA", op, "expected labels from 0 to ", vocab - 1, ", or ", kIgnoredLabel,
        ", but received ", label, " at row ", row);
}

void RequireLabels(const char* op, int64_t count) {
  if (count > 0) return;
  Throw("ERR_DATA", op, "expected at least one label that is not ", kIgnoredLabel);
}

int64_t CountLabels(const char* op, const TensorView& labels, int64_t vocab) {
  int64_t count = 0;
  for (int64_t row = 0; row < labels.numel(); ++row) {
    const int32_t label = labels.as<const int32_t>()[row];
    if (label == kIgnoredLabel) continue;
    if (label < 0 || label >= vocab) ThrowLabel(op, vocab, label, row);
    ++count;
  }
  return count;
}

}  // namespace lora
