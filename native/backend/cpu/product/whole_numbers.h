// Products of whole numbers (core/maths/int8_activations.h) on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/runtime/context.h"
#include "core/maths/ceil_div.h"
#include "core/maths/int8_activations.h"

namespace lora::cpu {

struct RowsOfX;
struct Step;

// Rows of x as whole numbers. The last group of a row is padded with zeros. What a product reads
// one after the other, a group of all rows, lies together.
struct WholeRows {
  size_t rows = 0, groups = 0;  // groups of a row
  int8_t* codes = nullptr;      // [groups][rows][kActivationGroup]
  float* scales = nullptr;      // [groups][rows]
  int32_t* sums = nullptr;      // [groups][rows][2]: of the codes of each half of a group

  static size_t GroupsOf(size_t k) { return CeilDiv(k, kActivationGroup); }
};

// Rounds rows [r.begin, r.end) of x.
void RoundRows(const RowsOfX& x, Range r, const WholeRows& to);

// sums [rows][PanelWidth()] += x·W for panel `panel` of step.w, whose format has whole codes. The
// bits of a sum depend on its row alone, and on no instruction set.
void AddWholeProducts(const Step& step, size_t rows, size_t panel, float* sums);

}  // namespace lora::cpu
