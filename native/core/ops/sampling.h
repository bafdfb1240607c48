// Describes how logits are changed before a token is drawn from them, how it is drawn, and how
// likely it was. See ops.h for what all ops share.
#pragma once

#include "core/ops/describe.h"

namespace lora {

// ids[i] is drawn from row i of the logits by the rules of maths/sampling.h, which the row's own
// reals and wholes set. Both are read when the op runs; a value out of its range fails with
// ERR_DATA. The draw depends on the row's (seed, step) and logits alone, not on its place.
//
// A row from which nothing can be drawn fails alone: its id is −1 − t, where t is the first token
// whose logit is NaN or +∞, or kNothingToDraw if every logit is −∞.
struct SampleArgs {
  TensorView logits;  // [m, vocab] act or f32
  TensorView reals;   // [m, 3] f32: temperature, top_p, min_p
  TensorView wholes;  // [m, 4] i32: top_k, step, low and high word of the seed
  TensorView ids;     // [m] i32

  static constexpr auto Describe() {
    using A = SampleArgs;
    return OpDescription{
        "sample",
        "sample",
        In("logits", &A::logits).Activation(),
        In("reals", &A::reals),
        In("wholes", &A::wholes),
        Out("ids", &A::ids, [](const A& a) { return Result{DType::kI32, {a.logits.dim(0)}}; }),
    };
  }
};
void Check(const SampleArgs&);

// In place, with (row, id, factor, add) of n entries: z = logits[row, id] becomes
//   (z > 0 ? z / factor : z · factor) + add,
// computed in f32. No two entries may have the same row and id. An entry whose row or id is −1 is
// none. Entries are read when the op runs; a row or id out of its range fails with ERR_DATA.
struct AdjustLogitsArgs {
  TensorView logits;            // [m, vocab] act or f32
  TensorView rows, ids;         // [n] i32
  TensorView factors, addends;  // [n] f32

  static constexpr auto Describe() {
    using A = AdjustLogitsArgs;
    return OpDescription{
        "adjust_logits",
        "adjust_logits",
        InOut("logits", &A::logits).Activation(),
        In("rows", &A::rows),
        In("ids", &A::ids),
        In("factors", &A::factors),
        In("addends", &A::addends),
    };
  }
};
void Check(const AdjustLogitsArgs&);

// Throws ERR_DATA about the first row or id out of its range. The operands lie on the host.
void RequireEntries(const AdjustLogitsArgs&);
// Throws about the entry at a position.
[[noreturn]] void ThrowEntry(const char* name, int64_t limit, int64_t position, int32_t value);

// In place: logits[i, v] becomes −∞ where bit v % 32 of bits[i, v / 32] is 0.
struct MaskLogitsArgs {
  TensorView logits;  // [m, vocab] act or f32
  TensorView bits;    // [m, ⌈vocab / 32⌉] i32

  static constexpr auto Describe() {
    using A = MaskLogitsArgs;
    return OpDescription{"mask_logits", "mask_logits", InOut("logits", &A::logits).Activation(),
                         In("bits", &A::bits)};
  }
};
void Check(const MaskLogitsArgs&);

// The log softmax of each row at ids[i], and then at its n largest logits, of equals at the first.
// The value at an id outside of [0, vocab), as that of a row from which nothing could be drawn, is
// NaN. A logit that is NaN makes its row's values NaN and is not among the largest; where fewer
// than n are left, ids are −1.
struct LogProbsArgs {
  TensorView logits;   // [m, vocab] act or f32
  TensorView ids;      // [m] i32
  int64_t n = 0;       // at most vocab
  TensorView values;   // [m, 1 + n] f32
  TensorView top_ids;  // [m, 1 + n] i32, the first of which is ids[i]

  static constexpr auto Describe() {
    using A = LogProbsArgs;
    return OpDescription{
        "log_probs",
        "log_probs",
        In("logits", &A::logits).Activation(),
        In("ids", &A::ids),
        Whole("n", &A::n),
        Out("values", &A::values, [](const A& a) { return F32Result({a.logits.dim(0), 1 + a.n}); }),
        Out("topIds", &A::top_ids,
            [](const A& a) { return Result{DType::kI32, {a.logits.dim(0), 1 + a.n}}; }),
    };
  }
};
void Check(const LogProbsArgs&);

using SamplingOps = OpList<SampleArgs, AdjustLogitsArgs, MaskLogitsArgs, LogProbsArgs>;

}  // namespace lora
