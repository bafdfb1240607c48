#include "backend/cpu/context.h"

#include <algorithm>
#include <thread>

namespace lora::cpu {
namespace {

int Cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

}  // namespace

CpuContext::CpuContext(int threads)
    : threads_(threads > 0 ? threads : Cores()),
      may_spin_(threads_ <= Cores()),
      pool_(static_cast<size_t>(threads_)) {}

void CpuContext::Wake() {
  if (spinning_ || !may_spin_) return;
  pool_.SetWaitMode(hwy::PoolWaitMode::kSpin);
  spinning_ = true;
}

void CpuContext::Idle() {
  if (!spinning_) return;
  pool_.SetWaitMode(hwy::PoolWaitMode::kBlock);
  spinning_ = false;
}

void CpuContext::Failure::Record(size_t task, std::exception_ptr error) {
  while (lock_.test_and_set(std::memory_order_acquire)) {
  }
  if (task < task_) {
    task_ = task;
    error_ = std::move(error);
  }
  lock_.clear(std::memory_order_release);
}

}  // namespace lora::cpu
