// A pool of threads for short parallel loops on a machine that other processes use too.
//
// Threads claim tasks one by one, the caller as well, and the caller waits only for tasks that
// a worker has begun. So a worker that gets no CPU costs only its share of the work. A pool
// that waits for every worker to report loses a whole scheduler slice each time (8 ms measured).
// Waiting threads first spin briefly, because the next op of a busy stream is microseconds
// away, and then sleep.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace lora::cpu {

class ThreadPool {
 public:
  // `threads` counts the caller, so threads - 1 workers are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls fn(task, thread) for every task of [0, tasks), with thread in [0, threads), and
  // returns when all are done. Only one call may run at a time, also not from within a task, and
  // fn must not throw.
  template <class Fn>
  void Run(size_t tasks, const Fn& fn) {
    const auto call = [](const void* object, size_t task, size_t thread) {
      (*static_cast<const Fn*>(object))(task, thread);
    };
    for (size_t begin = 0; begin < tasks; begin += kMaxTasks) {
      RunPart(begin, tasks - begin < kMaxTasks ? tasks - begin : kMaxTasks, call, &fn);
    }
  }

 private:
  using Call = void (*)(const void* object, size_t task, size_t thread);

  // A ticket is one word, epoch · tasks · next, so a single compare-and-swap decides whether work
  // is left and of which loop. A worker that wakes late finds another epoch or no task left.
  static constexpr int kCountBits = 20;
  static constexpr size_t kMaxTasks = (size_t{1} << kCountBits) - 1;

  void RunPart(size_t begin, size_t tasks, Call call, const void* object);
  bool WorkOnce(size_t thread);
  void Work(size_t thread);

  alignas(64) std::atomic<uint64_t> ticket_{0};
  // These are written before the ticket that makes them valid and read after a
  // claim of it succeeded.
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> object_{nullptr};
  std::atomic<size_t> begin_{0};
  alignas(64) std::atomic<uint32_t> unfinished_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};  // changes when there is work or the pool ends
  std::atomic<bool> ending_{false};
  uint64_t epoch_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace lora::cpu
