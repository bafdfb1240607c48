// The ops of the CPU backend run on a CpuContext: a pool of threads and loops over tasks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>

#include "backend/cpu/runtime/thread_pool.h"
#include "core/ops/backend.h"

namespace lora::cpu {

class CpuContext : public Context {
 public:
  // 0 threads means as many as this process may use at once.
  explicit CpuContext(int threads);

  int threads() const override { return threads_; }

  // Calls fn(task, thread) for every task of [0, tasks), with thread in [0, threads()), and
  // returns when all are done. Which thread gets a task varies from run to run, so results
  // must not depend on it. Calls must not be nested. If tasks throw, the exception of the
  // lowest one is rethrown here.
  template <class Fn>
  void ParallelFor(size_t tasks, const Fn& fn) {
    if (tasks == 0) return;
    if (tasks == 1 || threads_ == 1) {
      for (size_t task = 0; task < tasks; ++task) fn(task, size_t{0});
      return;
    }
    Failure failure;
    pool_.Run(tasks, [&](size_t task, size_t thread) {
      try {
        fn(task, thread);
      } catch (...) {
        failure.Record(task, std::current_exception());
      }
    });
    failure.Rethrow();
  }

 private:
  class Failure {
   public:
    void Record(size_t task, std::exception_ptr error);
    void Rethrow() const {
      if (error_) std::rethrow_exception(error_);
    }

   private:
    std::atomic_flag lock_ = ATOMIC_FLAG_INIT;
    size_t task_ = SIZE_MAX;
    std::exception_ptr error_;
  };

  int threads_;
  ThreadPool pool_;
};

// Calls context->ParallelFor. Without a context everything runs on the calling thread as thread 0,
// because the caller is itself a task.
template <class Fn>
void ParallelFor(CpuContext* context, size_t tasks, const Fn& fn) {
  if (context != nullptr) {
    context->ParallelFor(tasks, fn);
  } else {
    for (size_t task = 0; task < tasks; ++task) fn(task, size_t{0});
  }
}

inline int ThreadsOf(const CpuContext* context) { return context ? context->threads() : 1; }

// Returns the range of part `i` of `parts` nearly equal parts of `count`.
struct Range {
  size_t begin, end;
};
inline Range Split(size_t count, size_t parts, size_t i) {
  return {count * i / parts, count * (i + 1) / parts};
}

}  // namespace lora::cpu
