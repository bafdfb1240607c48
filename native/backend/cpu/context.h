// What the ops of the CPU backend run on: a pool of threads, and loops over tasks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>

#include "backend/cpu/thread_pool.h"
#include "core/backend.h"

namespace lora::cpu {

class CpuContext : public Context {
 public:
  // 0 threads: as many as this process may use at once.
  explicit CpuContext(int threads);

  int threads() const override { return threads_; }

  // fn(task, thread) for every task of [0, tasks), thread in [0, threads()); returns when all are
  // done. Which thread gets a task varies from run to run, so results must not depend on it. Not to
  // be nested. An exception of a task is rethrown here (that of the lowest task, if several threw).
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

// context->ParallelFor, or everything on the calling thread (as thread 0) when there is no context:
// then the caller is itself a task.
template <class Fn>
void ParallelFor(CpuContext* context, size_t tasks, const Fn& fn) {
  if (context != nullptr) {
    context->ParallelFor(tasks, fn);
  } else {
    for (size_t task = 0; task < tasks; ++task) fn(task, size_t{0});
  }
}

inline int ThreadsOf(const CpuContext* context) { return context ? context->threads() : 1; }

// The [begin, end) of part `i` of `parts` nearly equal parts of `count`.
struct Range {
  size_t begin, end;
};
inline Range Split(size_t count, size_t parts, size_t i) {
  return {count * i / parts, count * (i + 1) / parts};
}

}  // namespace lora::cpu
