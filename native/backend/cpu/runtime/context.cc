#include "backend/cpu/runtime/context.h"

#include <algorithm>
#include <thread>

namespace lora::cpu {
namespace {

int Cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

}  // namespace

CpuContext::CpuContext(int threads) : threads_(threads > 0 ? threads : Cores()), pool_(threads_) {}

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
