#include "backend/cuda/launches.h"

#include <cstdint>
#include <string_view>

#include "backend/cuda/context.h"

namespace lora::cuda {
namespace {

// Returns the name of a kernel from a sentence of the compiler, which ends in
// "[with auto kKernel = lora::device::Fill<float>]", without namespaces.
std::string NameIn(std::string_view spelled) {
  constexpr std::string_view kBefore = "kKernel = ";
  spelled.remove_prefix(spelled.find(kBefore) + kBefore.size());
  std::string name(spelled.substr(0, spelled.rfind(']')));
  for (const std::string_view space : {"lora::device::", "lora::"})
    for (size_t at; (at = name.find(space)) != std::string::npos;) name.erase(at, space.size());
  return name;
}

class ListContext final : public CudaContext {
 public:
  explicit ListContext(const DeviceProperties& properties) : properties_(properties) {}

  const DeviceProperties& properties() const override { return properties_; }
  // An address that nobody reads or writes.
  uint32_t* counters() const override { return reinterpret_cast<uint32_t*>(uintptr_t{1} << 45); }
  void Launch(const KernelLaunch& launch) override {
    steps.push_back({PlannedStep::Kind::kLaunch, launch.op, NameIn(launch.kernel), launch.shape,
                     launch.threads, launch.waits});
  }
  void ReadNow(void*, const void*, size_t) override { Add(PlannedStep::Kind::kWait); }
  void Upload(void*, const void*, size_t) override { Add(PlannedStep::Kind::kUpload); }

  std::vector<PlannedStep> steps;

 private:
  void Add(PlannedStep::Kind kind) { steps.emplace_back().kind = kind; }

  const DeviceProperties properties_;
};

}  // namespace

std::vector<PlannedStep> LaunchesOf(const PlannedCall& call, const DeviceProperties& properties) {
  ListContext context(properties);
  // An address that is aligned as scratch is. Nobody reads or writes there.
  auto* const scratch = reinterpret_cast<std::byte*>(uintptr_t{1} << 44);
  call.run(Scratch(call.scratch_bytes > 0 ? scratch : nullptr, call.scratch_bytes), context);
  return std::move(context.steps);
}

std::string Text(const PlannedStep& step) {
  if (step.kind == PlannedStep::Kind::kWait) return "host wait";
  if (step.kind == PlannedStep::Kind::kUpload) return "upload";
  const device::LaunchShape& shape = step.shape;
  std::string text = step.kernel + ", " + std::to_string(shape.grid_x);
  if (shape.grid_y > 1 || shape.grid_z > 1) text += "x" + std::to_string(shape.grid_y);
  if (shape.grid_z > 1) text += "x" + std::to_string(shape.grid_z);
  text += " of " + std::to_string(step.threads);
  if (shape.shared_bytes > 0) text += ", " + std::to_string(shape.shared_bytes) + " B";
  if (shape.programmatic) text += ", programmatic";
  return text;
}

std::string BrokenRule(std::span<const PlannedStep> steps) {
  const PlannedStep* before = nullptr;  // the launch before
  for (const PlannedStep& step : steps) {
    if (step.kind != PlannedStep::Kind::kLaunch) continue;
    if (step.shape.programmatic && !step.waits) return Text(step) + ": its kernel does not wait";
    if (step.shape.programmatic && before == nullptr)
      return Text(step) + ": it is the first of its call";
    before = &step;
  }
  return "";
}

}  // namespace lora::cuda
