// Rotates one head by the angles of its position; rope.cc has the formula.
#if defined(LORA_BACKEND_CPU_LAYERS_ROTATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_LAYERS_ROTATION_INL_H_
#undef LORA_BACKEND_CPU_LAYERS_ROTATION_INL_H_
#else
#define LORA_BACKEND_CPU_LAYERS_ROTATION_INL_H_
#endif

#include <cstring>

#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// cos and sin are of the position, `pairs` each. Of the `dim` numbers of the head those behind the
// first 2·pairs are copied. y may be x.
template <class T>
HWY_INLINE void RotateHead(const T* x, const float* cos, const float* sin, bool inverse,
                           size_t pairs, size_t dim, T* y) {
  if (2 * pairs < dim && y != x)
    std::memcpy(y + 2 * pairs, x + 2 * pairs, (dim - 2 * pairs) * sizeof(T));
  const DF d;
  const VF flip = hn::Set(d, inverse ? -1.0f : 1.0f);
  size_t i = 0;
  for (; i + kLanes <= pairs; i += kLanes) {
    const VF x1 = ReadVec(x + i), x2 = ReadVec(x + pairs + i);
    const VF c = ReadVec(cos + i), s = hn::Mul(flip, ReadVec(sin + i));
    WriteVec(hn::NegMulAdd(x2, s, hn::Mul(x1, c)), y + i);
    WriteVec(hn::MulAdd(x1, s, hn::Mul(x2, c)), y + pairs + i);
  }
  if (i == pairs) return;
  const size_t n = pairs - i;
  const VF x1 = ReadPart(x + i, n), x2 = ReadPart(x + pairs + i, n);
  const VF c = ReadPart(cos + i, n), s = hn::Mul(flip, ReadPart(sin + i, n));
  WritePart(hn::NegMulAdd(x2, s, hn::Mul(x1, c)), y + i, n);
  WritePart(hn::MulAdd(x1, s, hn::Mul(x2, c)), y + pairs + i, n);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LORA_BACKEND_CPU_LAYERS_ROTATION_INL_H_
