// Which instruction set the kernels run on. Highway compiles every kernel once per target and
// chooses at run time; its own DispatchedTarget() names the best one of the CPU even where that is
// not compiled in.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lora::cpu {

// The target that runs, in lower case: "avx3_zen4".
std::string ActiveTarget();

// All that are compiled in and that this CPU has, best first.
std::vector<std::string> UsableTargets();

// Nothing better than `name` ("sse2", "sse4", "avx2", "avx3", "avx3_zen4", any case; "best" lifts
// the limit) runs from now on. False, and nothing changes, where that target is not usable here. Of
// the whole process, so before anything is packed: the layout of weights depends on the target.
bool LimitTargets(std::string_view name);

// The same with the environment variable LORA_SIMD, once per process. Throws ERR_ARGUMENT where it
// names no usable target.
void LimitTargetsByEnvironment();

// "1.2.0": of the headers that the kernels were compiled with.
std::string HighwayVersion();

}  // namespace lora::cpu
