#include "backend/cpu/runtime/thread_pool.h"

#include <system_error>

#include "core/runtime/platform/platform.h"
#include "hwy/cache_control.h"

namespace lora::cpu {
namespace {

// About 50 µs of pauses, which is longer than the gap between two ops of a busy stream and far
// shorter than a scheduler slice.
constexpr int kSpins = 1000;

constexpr uint64_t Mask(int bits) { return (uint64_t{1} << bits) - 1; }

}  // namespace

ThreadPool::ThreadPool(int threads) {
  // Memory is reserved before the first thread starts: a vector that cannot grow must not leave
  // running threads behind.
  workers_.reserve(static_cast<size_t>(threads));
  for (int thread = 1; thread < threads; ++thread) {
    try {
      workers_.emplace_back([this, thread] { Work(static_cast<size_t>(thread)); });
    } catch (const std::system_error&) {
      return;  // the system gives no more threads: the existing ones do all tasks
    }
  }
}

ThreadPool::~ThreadPool() {
  ending_.store(true);
  signal_.fetch_add(1);
  platform::WakeAll(signal_);
  for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::WorkOnce(size_t thread) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t next = ticket & Mask(kCountBits);
    if (next >= ((ticket >> kCountBits) & Mask(kCountBits))) return false;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    // The loop cannot end before this task is done, so these values cannot change either.
    call_.load(std::memory_order_relaxed)(object_.load(std::memory_order_relaxed),
                                          begin_.load(std::memory_order_relaxed) + next, thread);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) platform::WakeOne(unfinished_);
    return true;
  }
}

void ThreadPool::Work(size_t thread) {
  while (!ending_.load(std::memory_order_acquire)) {
    bool worked = false;
    for (int spin = 0; spin < kSpins && !worked; ++spin) {
      worked = WorkOnce(thread);
      if (!worked) hwy::Pause();
    }
    if (worked) continue;
    const uint32_t seen = signal_.load();
    if (WorkOnce(thread) || ending_.load()) continue;
    platform::WaitWhileEqual(signal_, seen);
  }
}

void ThreadPool::RunPart(size_t begin, size_t tasks, Call call, const void* object) {
  call_.store(call, std::memory_order_relaxed);
  object_.store(object, std::memory_order_relaxed);
  begin_.store(begin, std::memory_order_relaxed);
  unfinished_.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
  ticket_.store((++epoch_ << (2 * kCountBits)) | (tasks << kCountBits), std::memory_order_release);
  if (!workers_.empty()) {
    signal_.fetch_add(1);
    platform::WakeAll(signal_);
  }
  while (WorkOnce(0)) {
  }
  for (int spin = 0; spin < kSpins; ++spin) {
    if (unfinished_.load(std::memory_order_acquire) == 0) return;
    hwy::Pause();
  }
  for (uint32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) {
    platform::WaitWhileEqual(unfinished_, left);
  }
}

}  // namespace lora::cpu
