// Tells and limits which instruction set the kernels run on. Highway compiles every kernel once per
// target and chooses at run time. Its own DispatchedTarget() is of no use here, because it names
// the best target of the CPU even where that is not compiled in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/runtime/devices.h"

namespace lora::cpu {

// Returns what `has` holds beyond the best of `compiled`, as far as a build left it out, best
// first. All are bits of Highway.
std::vector<std::string> MissingTargets(int64_t has, int64_t compiled, int64_t left_out);

// From now on nothing better than `name` runs ("sse2", "sse4", "avx2", "avx3", "avx3_zen4", any
// case); "best" lifts the limit. Returns false and changes nothing where that target is not usable
// here. The limit holds for the whole process and must be set before anything is packed, because
// the layout of weights depends on the target.
bool LimitTargets(std::string_view name);

// Does the same with the environment variable LORA_SIMD, once per process. Throws ERR_ARGUMENT
// where it names no usable target.
void LimitTargetsByEnvironment();

}  // namespace lora::cpu
