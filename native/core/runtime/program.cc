#include "core/runtime/program.h"

#include <algorithm>
#include <string>
#include <utility>

namespace lora {
namespace {

// Marks what no run has written yet. No command knows these storages while a program is recorded.
void MarkUnwritten(const std::vector<StatusPtr>& made, const char* why) {
  Step step;
  step.op = "program";
  const FailurePtr failure =
      MakeFailure(step, 0, "ERR_ARGUMENT", step.op, std::string("[program] ") + why);
  for (const StatusPtr& status : made) status->failure = failure;
}

}  // namespace

Program::Program(std::shared_ptr<Device> device)
    : pool_(std::make_shared<Pool>(std::move(device))),
      planned_threads_(this->device()->stream().threads()) {}

Program::~Program() {
  if (!steps_) MarkUnwritten(made_, "the recording that made this tensor was abandoned");
  pool_->Close();
}

StoragePtr Program::Make(const Block& block, size_t bytes) {
  auto storage = std::make_shared<Storage>(pool_, block, bytes);
  made_.push_back(storage->status());
  return storage;
}

void Program::Record(Step step, const std::vector<StoragePtr>& storages, PlannedCall call,
                     Planner plan) {
  for (const StoragePtr& storage : storages)
    if (storage->pool() != pool_) held_.insert(storage);
  if (device()->stream().threads() != planned_threads_) planned_threads_ = 0;
  recorded_.push_back({std::move(step), std::move(plan), std::move(call)});
}

void Program::Prepare(const Allocate& allocate) {
  const int threads = device()->stream().threads();
  if (threads == ready_threads_) return;
  if (threads != std::exchange(planned_threads_, 0))
    for (Recorded& recorded : recorded_) recorded.call = recorded.plan(threads);
  planned_threads_ = threads;

  size_t scratch_bytes = 0;
  for (const Recorded& recorded : recorded_)
    scratch_bytes = std::max(scratch_bytes, recorded.call.scratch_bytes);
  if (scratch_bytes > 0 && (!scratch_ || scratch_->bytes() < scratch_bytes))
    scratch_ = allocate(scratch_bytes);

  const auto steps = std::make_shared<Steps>();
  steps->made = made_;
  for (const Recorded& recorded : recorded_) {
    Step& step = steps->steps.emplace_back(recorded.step);
    step.run = recorded.call.run;
    if (recorded.call.scratch_bytes > 0)
      step.scratch = {static_cast<std::byte*>(scratch_->data()), recorded.call.scratch_bytes};
  }
  if (!steps_) MarkUnwritten(made_, "this tensor has no value before the program has run");
  steps_ = steps;
  ready_threads_ = threads;
}

Command Program::Run() const {
  Command command;
  command.op = "program";
  command.steps = steps_;
  return command;
}

}  // namespace lora
