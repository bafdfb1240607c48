#include "test/support/tensors.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numbers>
#include <sstream>

#include "core/maths/philox.h"
#include "core/ops/element.h"

namespace lora::test {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kGuard = 0;
#else
constexpr size_t kGuard = 64;
#endif
constexpr std::byte kGuardByte{0xA5};
constexpr int kUnwritten = 0xFF;  // all ones is a NaN in every float type

// Returns two independent numbers of (seed, i) in [0, 1).
struct Pair {
  double u, v;
};
Pair RandomPair(uint64_t seed, int64_t i) {
  const auto counter = static_cast<uint64_t>(i);
  const PhiloxWords words = Philox4x32(
      seed, {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0x7e57u, 0});
  return {UniformFromWord(words[0]), UniformFromWord(words[1])};
}

template <class Value>
Tensor Filled(DType dtype, const Shape& shape, Value value) {
  Tensor tensor(dtype, shape);
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.Set(i, value(i));
  return tensor;
}

}  // namespace

void Tensor::Free::operator()(std::byte* memory) const {
  ::operator delete(memory, std::align_val_t{64});
}

Tensor::Tensor(DType dtype, Shape shape, int64_t misalign) : misalign_(misalign) {
  view_ = TensorView(nullptr, dtype, shape);
  memory_.reset(static_cast<std::byte*>(::operator new(bytes() + kGuard, std::align_val_t{64})));
  std::memset(memory_.get(), kUnwritten, bytes());
  std::memset(memory_.get() + bytes(), std::to_integer<int>(kGuardByte), kGuard);
  view_.data = memory_.get() + static_cast<size_t>(misalign) * SizeOf(dtype);
}

Tensor::Tensor(const Tensor& other) {
  if (!other) return;
  *this = Tensor(other.dtype(), other.shape(), other.misalign_);
  std::memcpy(view_.data, other.view_.data, view_.bytes());
}

Tensor& Tensor::operator=(const Tensor& other) {
  if (this != &other) *this = Tensor(other);
  return *this;
}

double Tensor::at(int64_t i) const { return Load(view_, i); }
void Tensor::Set(int64_t i, double value) { Store(view_, i, value); }

std::vector<double> Tensor::Values() const {
  std::vector<double> values;
  for (int64_t i = 0; i < numel(); ++i) values.push_back(at(i));
  return values;
}

Tensor Tensor::As(DType dtype) const {
  if (!*this) return Tensor();
  return Filled(dtype, shape(), [this](int64_t i) { return at(i); });
}

bool Tensor::intact() const {
  for (size_t i = 0; i < (memory_ ? kGuard : 0); ++i) {
    if (memory_.get()[bytes() + i] != kGuardByte) return false;
  }
  return true;
}

Tensor Uniform(DType dtype, Shape shape, uint64_t seed, double lo, double hi) {
  return Filled(dtype, shape, [=](int64_t i) { return lo + (hi - lo) * RandomPair(seed, i).u; });
}

Tensor Normal(DType dtype, Shape shape, uint64_t seed, double deviation, double mean) {
  return Filled(dtype, shape, [=](int64_t i) {
    const Pair pair = RandomPair(seed, i);
    return mean + deviation * std::sqrt(-2 * std::log(1 - pair.u)) *
                      std::cos(2 * std::numbers::pi * pair.v);
  });
}

Tensor Integers(DType dtype, Shape shape, uint64_t seed, int lo, int hi) {
  return Filled(dtype, shape,
                [=](int64_t i) { return lo + std::floor((hi - lo + 1) * RandomPair(seed, i).u); });
}

Tensor Full(DType dtype, Shape shape, double value) {
  return Filled(dtype, shape, [=](int64_t) { return value; });
}

Tensor Zeros(DType dtype, Shape shape) { return Full(dtype, shape, 0); }

Tensor Of(DType dtype, Shape shape, const std::vector<double>& values) {
  return Filled(dtype, shape, [&](int64_t i) { return values.at(static_cast<size_t>(i)); });
}

Tensor Ints(Shape shape, const std::vector<int32_t>& values) {
  return Filled(DType::kI32, shape, [&](int64_t i) { return values.at(static_cast<size_t>(i)); });
}

std::string Text(const Shape& shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

}  // namespace lora::test
