#include "backend/cpu/runtime/targets.h"

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <mutex>

#include "core/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/runtime/targets.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {

int64_t RunningTarget() { return HWY_TARGET; }

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(RunningTarget);

namespace {

std::string Lower(std::string_view text) {
  std::string lower;
  for (const char c : text) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

std::string NameOfTarget(int64_t target) { return Lower(hwy::TargetName(target)); }

// Returns the compiled targets that the CPU has, whatever limits and mocks are set, because a limit
// must not hide the targets from which the next limit chooses.
std::vector<int64_t> Supported() {
  static const std::vector<int64_t> all = hwy::SupportedAndGeneratedTargets();
  return all;
}

// On ARM, with a glibc before 2.34, std::call_once would wait for ever after an error: it is
// pthread_once there, through which no exception gets.
std::mutex environment_mutex;
bool environment_read = false;

bool Limit(std::string_view name) {
  const std::string wanted = Lower(name);
  int64_t better = 0;
  bool found = wanted == "best";
  if (!found) {
    for (const int64_t target : Supported()) {
      found = NameOfTarget(target) == wanted;
      if (found) break;
      better |= target;
    }
  }
  if (found) hwy::DisableTargets(better);
  return found;
}

}  // namespace

std::string ActiveTarget() {
  Supported();
  LimitTargetsByEnvironment();
  return NameOfTarget(HWY_DYNAMIC_DISPATCH(RunningTarget)());
}

std::vector<std::string> UsableTargets() {
  std::vector<std::string> names;  // a lower bit is a better target
  for (const int64_t target : Supported()) names.push_back(NameOfTarget(target));
  return names;
}

bool LimitTargets(std::string_view name) {
  const std::lock_guard lock(environment_mutex);
  environment_read = true;
  return Limit(name);
}

void LimitTargetsByEnvironment() {
  const std::lock_guard lock(environment_mutex);
  if (environment_read) return;
  const char* name = std::getenv("LORA_SIMD");
  if (name != nullptr && *name != '\0' && !Limit(name)) {
    std::string usable;
    for (const std::string& target : UsableTargets())
      usable += (usable.empty() ? "" : ", ") + target;
    Throw("ERR_ARGUMENT", "device", "expected LORA_SIMD to be one of ", usable, " but received ",
          name);
  }
  environment_read = true;
}

std::string HighwayVersion() {
  return std::to_string(HWY_MAJOR) + '.' + std::to_string(HWY_MINOR) + '.' +
         std::to_string(HWY_PATCH);
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
