// The loop of an optimizer's step over the elements of a parameter, its gradient and its state. One
// pass reads and writes each of them once.
#if defined(LORA_CPU_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_CPU_STEP_INL_H_
#undef LORA_CPU_STEP_INL_H_
#else
#define LORA_CPU_STEP_INL_H_
#endif

#include "backend/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {

// rule(d, p, g, state…) updates a vector of p and of each state in place, for elements [begin, end)
// of p, g and the states.
template <class Rule, class... State>
HWY_INLINE void StepElements(const Rule& rule, size_t begin, size_t end, float* p, const float* g,
                             State*... states) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    VF32 new_p = ReadVec(d, p + i);
    [&](auto... state) HWY_ATTR {
      rule(d, new_p, ReadVec(d, g + i), state...);
      (WriteVec(d, state, states + i), ...);
    }(ReadVec(d, states + i)...);
    WriteVec(d, new_p, p + i);
  }
  if (i == end) return;
  const size_t n = end - i;
  VF32 new_p = ReadPart(d, p + i, n);
  [&](auto... state) HWY_ATTR {
    rule(d, new_p, ReadPart(d, g + i, n), state...);
    (WritePart(d, state, states + i, n), ...);
  }(ReadPart(d, states + i, n)...);
  WritePart(d, new_p, p + i, n);
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
