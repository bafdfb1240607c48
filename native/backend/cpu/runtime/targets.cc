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

#ifndef LORA_SIMD_LEFT_OUT
#define LORA_SIMD_LEFT_OUT 0
#endif

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

// Returns the targets that the CPU has, whatever limits and mocks are set, because a limit must not
// hide the targets from which the next limit chooses.
int64_t OfCpu() {
  static const int64_t all = hwy::SupportedTargets();
  return all;
}

// A lower bit is a better target.
constexpr int64_t Best(int64_t targets) { return targets & -targets; }

// Returns single targets, best first.
std::vector<int64_t> Each(int64_t targets) {
  std::vector<int64_t> each;
  for (; targets != 0; targets -= Best(targets)) each.push_back(Best(targets));
  return each;
}

std::vector<int64_t> Supported() { return Each(OfCpu() & HWY_TARGETS); }

std::vector<std::string> NamesOf(const std::vector<int64_t>& targets) {
  std::vector<std::string> names;
  for (const int64_t target : targets) names.push_back(NameOfTarget(target));
  return names;
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
  OfCpu();
  LimitTargetsByEnvironment();
  return NameOfTarget(HWY_DYNAMIC_DISPATCH(RunningTarget)());
}

std::vector<std::string> UsableTargets() { return NamesOf(Supported()); }

std::vector<std::string> MissingTargets(int64_t has, int64_t compiled, int64_t left_out) {
  return NamesOf(Each(has & left_out & (Best(has & compiled) - 1)));
}

std::vector<std::string> MissingTargets() {
  return MissingTargets(OfCpu(), HWY_TARGETS, LORA_SIMD_LEFT_OUT);
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
    std::string usable, left_out;
    for (const std::string& target : UsableTargets())
      usable += (usable.empty() ? "" : ", ") + target;
    for (const std::string& target : NamesOf(Each(OfCpu() & LORA_SIMD_LEFT_OUT)))
      if (target == Lower(name))
        left_out = ", which this binary was built without: LORA_SIMD_BUILD=all builds every one";
    Throw("ERR_ARGUMENT", "device", "expected LORA_SIMD to be one of ", usable, " but received ",
          name, left_out);
  }
  environment_read = true;
}

std::string HighwayVersion() {
  return std::to_string(HWY_MAJOR) + '.' + std::to_string(HWY_MINOR) + '.' +
         std::to_string(HWY_PATCH);
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
