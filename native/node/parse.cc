#include "node/parse.h"

#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>

#include "core/error.h"

namespace lora::node {

double ParseAnyNumber(Napi::Value value, const char* op, const char* name) {
  LORA_CHECK(value.IsNumber(), op, "expected ", name, " to be a number");
  return value.As<Napi::Number>().DoubleValue();
}

double ParseNumber(Napi::Value value, const char* op, const char* name) {
  const double number = ParseAnyNumber(value, op, name);
  LORA_CHECK(!std::isnan(number), op, "expected ", name, " to be a number but received NaN");
  return number;
}

int64_t ParseInteger(Napi::Value value, const char* op, const char* name, int64_t least,
                     int64_t most) {
  const double number = ParseNumber(value, op, name);
  LORA_CHECK(number == std::floor(number) && number >= static_cast<double>(least) &&
                 number <= static_cast<double>(most),
             op, "expected ", name, " to be a whole number from ", least, " to ", most,
             " but received ", number);
  return static_cast<int64_t>(number);
}

bool ParseBool(Napi::Value value, const char* op, const char* name) {
  LORA_CHECK(value.IsBoolean(), op, "expected ", name, " to be a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string ParseString(Napi::Value value, const char* op, const char* name) {
  LORA_CHECK(value.IsString(), op, "expected ", name, " to be a string");
  return value.As<Napi::String>().Utf8Value();
}

size_t ParseChoice(Napi::Value value, const char* op, const char* name,
                   std::span<const char* const> words) {
  const std::string word = ParseString(value, op, name);
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) {
    if (word == words[i]) return i;
    if (i > 0) list += i + 1 < words.size() ? ", " : " or ";
    list += words[i];
  }
  Throw("ERR_ARGUMENT", op, "expected ", name, " to be ", list, " but received \"", word, "\"");
}

WeightFormat ParseFormat(Napi::Value value, const char* op) {
  const std::span names = std::span(kFormatNames).first(kFormatsOfJavaScript);
  return static_cast<WeightFormat>(ParseChoice(value, op, "format", names));
}

DType ParseDType(Napi::Value value, const char* op) {
  constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kI32};
  constexpr const char* kNames[] = {NameOf(kTypes[0]), NameOf(kTypes[1]), NameOf(kTypes[2]),
                                    NameOf(kTypes[3])};
  return kTypes[ParseChoice(value, op, "dtype", kNames)];
}

DType ParseStoredDType(Napi::Value value, const char* op) {
  if (value.IsString() && ParseString(value, op, "dtype") == NameOf(DType::kI8)) return DType::kI8;
  return ParseDType(value, op);
}

Shape ParseShape(Napi::Value value, const char* op) {
  const Napi::Array array = ParseArray(value, op, "shape");
  const uint32_t rank = array.Length();
  LORA_CHECK(rank <= kMaxDims, op, "expected a shape of at most ", kMaxDims,
             " dimensions but received ", rank);
  Shape shape;
  for (uint32_t i = 0; i < rank; ++i) shape.push_back(ParseInteger(array.Get(i), op, "shape"));
  CheckElements(shape, op);
  return shape;
}

void CheckElements(const Shape& shape, const char* op) {
  double product = 1;
  for (const int64_t dim : shape) product *= static_cast<double>(dim > 0 ? dim : 1);
  LORA_CHECK(product <= static_cast<double>(int64_t{1} << 53), op,
             "expected a shape of at most 2^53 elements but received ", shape);
}

Napi::Object ParseObject(Napi::Value value, const char* op, const char* name) {
  LORA_CHECK(value.IsObject(), op, "expected ", name, " to be an object");
  return value.As<Napi::Object>();
}

Napi::Array ParseArray(Napi::Value value, const char* op, const char* name) {
  LORA_CHECK(value.IsArray(), op, "expected ", name, " to be an array");
  return value.As<Napi::Array>();
}

Napi::Array ToArray(Napi::Env env, const Shape& shape) {
  Napi::Array array = Napi::Array::New(env, static_cast<size_t>(shape.rank()));
  for (int i = 0; i < shape.rank(); ++i)
    array.Set(static_cast<uint32_t>(i), static_cast<double>(shape[i]));
  return array;
}

}  // namespace lora::node
