// Converts JavaScript values to native ones. Every function throws ERR_ARGUMENT with the
// op and the name of the argument.
#pragma once

#include <napi.h>

#include <cstdint>
#include <span>
#include <string>

#include "core/ops/tensor_view.h"

namespace lora::node {

double ParseAnyNumber(Napi::Value value, const char* op, const char* name);
// Refuses NaN.
double ParseNumber(Napi::Value value, const char* op, const char* name);
// Accepts a whole number from `least` to `most`.
int64_t ParseInteger(Napi::Value value, const char* op, const char* name, int64_t least = 0,
                     int64_t most = int64_t{1} << 53);
bool ParseBool(Napi::Value value, const char* op, const char* name);
std::string ParseString(Napi::Value value, const char* op, const char* name);
// Returns the index of the word that the value is.
size_t ParseChoice(Napi::Value value, const char* op, const char* name,
                   std::span<const char* const> words);
DType ParseDType(Napi::Value value, const char* op);
// The same, or i8, which only the values of a quantized weight have.
DType ParseStoredDType(Napi::Value value, const char* op);
WeightFormat ParseFormat(Napi::Value value, const char* op);
// Accepts at most 8 dimensions whose product of bytes fits.
Shape ParseShape(Napi::Value value, const char* op);
// Throws unless the dimensions, each 0 counted as 1, make at most 2^53 elements: then no product of
// some of them overflows. Shapes of results need it too: [2^31, 0]·[0, 2^31] is [2^31, 2^31].
void CheckElements(const Shape& shape, const char* op);
Napi::Object ParseObject(Napi::Value value, const char* op, const char* name);
Napi::Array ParseArray(Napi::Value value, const char* op, const char* name);

inline bool IsNone(Napi::Value value) { return value.IsNull() || value.IsUndefined(); }
Napi::Array ToArray(Napi::Env env, const Shape& shape);

}  // namespace lora::node
