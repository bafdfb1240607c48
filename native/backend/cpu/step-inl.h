// The loop of an optimizer's step over the elements of a parameter, its gradient and its state. One
// pass reads and writes each of them once.
#if defined(LORA_BACKEND_CPU_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_STEP_INL_H_
#undef LORA_BACKEND_CPU_STEP_INL_H_
#else
#define LORA_BACKEND_CPU_STEP_INL_H_
#endif

#include "backend/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// rule(d, p, g, state…) updates a vector of p and of each state in place, for elements [begin, end)
// of p, g and the states.
template <class Rule, class... State>
HWY_INLINE void StepElements(const Rule& rule, size_t begin, size_t end, float* p, const float* g,
                             State*... states) {
  const DF d;
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    VF new_p = ReadVec(p + i);
    [&](auto... state) HWY_ATTR {
      rule(d, new_p, ReadVec(g + i), state...);
      (WriteVec(state, states + i), ...);
    }(ReadVec(states + i)...);
    WriteVec(new_p, p + i);
  }
  if (i == end) return;
  const size_t n = end - i;
  VF new_p = ReadPart(p + i, n);
  [&](auto... state) HWY_ATTR {
    rule(d, new_p, ReadPart(g + i, n), state...);
    (WritePart(state, states + i, n), ...);
  }(ReadPart(states + i, n)...);
  WritePart(new_p, p + i, n);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
