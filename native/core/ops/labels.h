// The labels of the losses. They are data, so what is wrong with them is found when an op runs.
#pragma once

#include <cstdint>

namespace lora {

struct TensorView;

// The label of a row that does not count. lib/data/example.ts has the same number.
constexpr int32_t kIgnoredLabel = -100;

// Throws ERR_DATA for a label that is neither kIgnoredLabel nor in [0, vocab).
[[noreturn]] void ThrowLabel(const char* op, int64_t vocab, int64_t label, int64_t row);

// Throws ERR_DATA when no label counts.
void RequireLabels(const char* op, int64_t count);

// Returns how many of the labels, which lie in host memory, count. Throws as ThrowLabel does.
int64_t CountLabels(const char* op, const TensorView& labels, int64_t vocab);

}  // namespace lora
