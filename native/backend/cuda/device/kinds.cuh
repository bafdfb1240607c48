// The formulas of elementwise kinds in f32.
#pragma once

#include "backend/cuda/device/activation.cuh"
#include "core/ops/tape.h"

namespace lora::device {

using Number = float;
LORA_DEVICE float Of(float x) { return x; }
LORA_DEVICE float IfNegative(float x, float a, float b) { return x < 0.0f ? a : b; }
LORA_DEVICE float IfPositive(float x, float a, float b) { return x > 0.0f ? a : b; }
LORA_DEVICE float IfLess(float x, float y, float a, float b) { return x < y ? a : b; }
LORA_DEVICE float IfEqual(float x, float y, float a, float b) { return x == y ? a : b; }
LORA_DEVICE float AtLeast(float low, float x) { return x < low ? low : x; }
LORA_DEVICE float AtMost(float high, float x) { return x > high ? high : x; }
LORA_DEVICE float MulAdd(float a, float b, float c) { return Fma(a, b, c); }
LORA_DEVICE float IfAbove(float high, float x, float a, float b) { return x > high ? a : b; }
LORA_DEVICE float Root(float x) { return Sqrt(x); }
LORA_DEVICE float Power(float x, float y) { return Pow(x, y); }

#define LORA_FORMULA LORA_DEVICE
#include "core/maths/kinds.h"
#undef LORA_FORMULA

}  // namespace lora::device
