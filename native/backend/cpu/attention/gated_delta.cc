#include "backend/cpu/attention/gated_delta.h"

#include <cstring>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/context.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention/gated_delta.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/attention/gated_delta-inl.h"
#include "backend/cpu/attention/gated_delta_backward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

void RunForwardDelta(const DeltaCall& c, const DeltaRow& row, const TensorView& y,
                     const DeltaScratch& s) {
  if (y.dtype == DType::kBF16) return ForwardDelta<hwy::bfloat16_t>(c, row, y, s);
  ForwardDelta<float>(c, row, y, s);
}

void RunBackwardDelta(const DeltaCall& c, const DeltaRow& row, const GatedDeltaBackwardArgs& args,
                      const DeltaScratch& s) {
  if (args.q.dtype == DType::kBF16) return BackwardDelta<hwy::bfloat16_t>(c, row, args, s);
  BackwardDelta<float>(c, row, args, s);
}

void RunStepDelta(const DeltaCall& c, size_t b, size_t head, bool fresh, float* state,
                  const TensorView& y, float* memory) {
  if (y.dtype == DType::kBF16) {
    return StepDelta<hwy::bfloat16_t>(c, b, head, fresh, state, y, memory);
  }
  StepDelta<float>(c, b, head, fresh, state, y, memory);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(RunForwardDelta);
HWY_EXPORT(RunBackwardDelta);
HWY_EXPORT(RunStepDelta);

namespace {

// Where the texts of a call begin, or null for one text in each row.
int32_t* TakeBegins(Arena& arena, const DeltaCall& c, const TensorView& key_begin) {
  return key_begin ? arena.Take<int32_t>(static_cast<size_t>(c.o.batch) * c.tokens) : nullptr;
}

void FillBegins(const DeltaCall& c, const TensorView& key_begin, int32_t* begins) {
  if (begins == nullptr) return;
  for (int64_t b = 0; b < c.o.batch; ++b) {
    int32_t begin = 0;
    for (int64_t t = 0; t < c.o.tokens; ++t) {
      if (BeginsText(key_begin, b, t)) begin = static_cast<int32_t>(t);
      begins[b * c.o.tokens + t] = begin;
    }
  }
}

size_t ThreadBytes(const DeltaCall& c, bool backward) {
  Arena arena;
  DeltaScratch(arena, c, backward);
  return arena.bytes();
}

template <class Args>
size_t TextBytes(const Args& args, int threads, bool backward) {
  const DeltaCall c{DeltaOperands(args)};
  Arena arena;
  TakeBegins(arena, c, args.key_begin);
  return arena.bytes() + static_cast<size_t>(threads) * ThreadBytes(c, backward);
}

// Calls f(row, scratch) for each task.
template <class F>
void ForTasks(const DeltaCall& c, Scratch memory, bool backward, Context& context, const F& f) {
  const size_t bytes = ThreadBytes(c, backward);
  const auto k_heads = static_cast<size_t>(c.o.k_heads);
  static_cast<CpuContext&>(context).ParallelFor(c.Tasks(), [&](size_t task, size_t thread) {
    Arena arena(memory.subspan(thread * bytes, bytes));
    DeltaRow row;
    row.b = task / k_heads;
    row.head = task % k_heads;
    f(row, DeltaScratch(arena, c, backward));
  });
}

// Those of whole texts.
template <class Args, class F>
void ForTexts(const Args& args, const DeltaCall& c, Scratch memory, bool backward, Context& context,
              const F& f) {
  Arena arena(memory);
  int32_t* const begins = TakeBegins(arena, c, args.key_begin);
  FillBegins(c, args.key_begin, begins);
  ForTasks(c, arena.Rest(memory), backward, context, [&](DeltaRow row, const DeltaScratch& s) {
    if (begins) row.begins = begins + row.b * c.tokens;
    f(row, s);
  });
}

}  // namespace

size_t ScratchBytes(const GatedDeltaForwardArgs& args, int threads) {
  return TextBytes(args, threads, false);
}

void Run(const GatedDeltaForwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("gated_delta", args.q.dtype);
  const DeltaCall c{DeltaOperands(args)};
  if (args.y.numel() == 0) return;
  ForTexts(args, c, scratch, false, context, [&](const DeltaRow& row, const DeltaScratch& s) {
    std::memset(s.states, 0, c.group * c.StateElements() * sizeof(float));
    HWY_DYNAMIC_DISPATCH(RunForwardDelta)(c, row, args.y, s);
  });
}

size_t ScratchBytes(const GatedDeltaBackwardArgs& args, int threads) {
  return TextBytes(args, threads, true);
}

void Run(const GatedDeltaBackwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("gated_delta", args.q.dtype);
  const DeltaCall c{DeltaOperands(args)};
  ForTexts(args, c, scratch, true, context, [&](const DeltaRow& row, const DeltaScratch& s) {
    HWY_DYNAMIC_DISPATCH(RunBackwardDelta)(c, row, args, s);
  });
}

size_t ScratchBytes(const GatedDeltaAppendArgs& args, int threads) {
  const DeltaCall c{DeltaOperands(args)};
  if (args.phase == AttentionPhase::kPrefill)
    return static_cast<size_t>(threads) * ThreadBytes(c, false);
  return static_cast<size_t>(threads) * 2 * (c.pk + c.pv) * sizeof(float);
}

void Run(const GatedDeltaAppendArgs& args, Scratch scratch, Context& context) {
  RequireActivation("gated_delta_append", args.q.dtype);
  CheckSlots("gated_delta_append", args.slots, args.lengths, args.pool.dim(0), args.q.dim(1));
  const DeltaCall c{DeltaOperands(args)};
  if (c.tokens == 0) return;
  const auto heads = static_cast<size_t>(c.o.v_heads);
  const auto state_of = [&](size_t b, size_t head) {
    const auto slot = static_cast<size_t>(args.slots.as<const int32_t>()[b]);
    return args.pool.as<float>() + (slot * heads + head) * c.dk * c.dv;
  };
  const auto position = [&](size_t b) {
    return args.lengths.as<const int32_t>()[b] - static_cast<int32_t>(c.tokens);
  };
  if (args.phase == AttentionPhase::kDecode) {
    const size_t tasks = static_cast<size_t>(c.o.batch) * heads, floats = 2 * (c.pk + c.pv);
    return static_cast<CpuContext&>(context).ParallelFor(tasks, [&](size_t task, size_t thread) {
      const size_t b = task / heads, head = task % heads;
      float* const memory = reinterpret_cast<float*>(scratch.data()) + thread * floats;
      HWY_DYNAMIC_DISPATCH(RunStepDelta)
      (c, b, head, position(b) == 0, state_of(b, head), args.y, memory);
    });
  }
  ForTasks(c, scratch, false, context, [&](DeltaRow row, const DeltaScratch& s) {
    row.position = position(row.b);
    const bool fresh = row.position == 0;
    row.begin = fresh ? 0 : -1;
    std::memset(s.states, 0, c.group * c.StateElements() * sizeof(float));
    const auto copy = [&](bool in) {
      for (size_t of_group = 0; of_group < c.group; ++of_group) {
        float* const whole = s.states + of_group * c.StateElements();
        float* const kept = state_of(row.b, row.head * c.group + of_group);
        for (size_t i = 0; i < c.dk; ++i) {
          float* const to = in ? whole + i * c.pv : kept + i * c.dv;
          std::memcpy(to, in ? kept + i * c.dv : whole + i * c.pv, c.dv * sizeof(float));
        }
      }
    };
    if (!fresh) copy(true);
    HWY_DYNAMIC_DISPATCH(RunForwardDelta)(c, row, args.y, s);
    copy(false);
  });
}

template PlannedCall Plan(const GatedDeltaForwardArgs&, int);
template PlannedCall Plan(const GatedDeltaBackwardArgs&, int);
template PlannedCall Plan(const GatedDeltaAppendArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
