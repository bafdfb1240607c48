// The queue of one device. Its commands run one after the other, in the order they came, off the
// caller's thread. All access to the device's memory happens in commands, which is what makes it
// safe to reuse a block while older commands still use it (allocator.h).
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/runtime/steps.h"

namespace lora {

struct Command : Step {
  int64_t tag = 0;
  // Of what it copies from or to the host. Operands do not count: the block of a tensor that is
  // gone serves the next call at once, so that depth costs no memory (allocator.h).
  size_t bytes = 0;
  std::shared_ptr<Steps> steps;  // of a program; they run before the command's own work
  // The worker calls it when the work is done, with null where it ran; it must not throw. Commands
  // without it may still be at work on the device when the next one starts.
  std::function<void(const FailurePtr&)> done;
};

struct QueueLimits {
  size_t commands = 4096;  // the stacks of as many calls are kept (lib/native/calls.ts)
  size_t bytes = size_t{1} << 30;
};

class Stream {
 public:
  virtual ~Stream() = default;
  // Never waits.
  virtual void Enqueue(Command command) = 0;
  // Waits until everything enqueued so far has run.
  virtual void Synchronize() = 0;
  // Tells whether nothing is queued or running.
  virtual bool idle() const = 0;

  // A caller that finds the queue full waits until it is half empty (back-pressure).
  virtual void SetLimits(QueueLimits limits) = 0;
  virtual bool full() const = 0;
  virtual bool half_empty() const = 0;
  virtual void WaitBelowHalf() = 0;
  // Calls back once, when the queue is half empty or the stream has ended: at once where that is
  // so, else on the worker's thread.
  virtual void WhenBelowHalf(std::function<void()> callback) = 0;

  // Takes effect in order: commands enqueued later run with this many threads.
  virtual void SetThreads(int threads) = 0;
  // Returns the number that the next enqueued command will run with.
  virtual int threads() const = 0;

  // Drops the commands that have not started (their `done` is told) and waits for the one that
  // runs. Commands that come later are dropped.
  virtual void Stop() = 0;
};

// Makes the context that a stream's commands run on; may throw, which fails the command.
using ContextFactory = std::function<std::unique_ptr<Context>(int threads)>;

// A worker thread with a Context: it computes, or launches kernels and waits for them where a
// command has a `done`.
class WorkerStream final : public Stream {
 public:
  // What Synchronize does meanwhile. A caller that runs the commands that nobody runs yet saves two
  // wake-ups, which take longer than a small op does.
  enum class Waiting { kSleeps, kRuns };
  WorkerStream(ContextFactory create_context, int threads, Waiting waiting = Waiting::kSleeps);
  ~WorkerStream() override;

  void Enqueue(Command command) override;
  void Synchronize() override;
  bool idle() const override;
  void SetLimits(QueueLimits limits) override;
  bool full() const override;
  bool half_empty() const override;
  void WaitBelowHalf() override;
  void WhenBelowHalf(std::function<void()> callback) override;
  void SetThreads(int threads) override;
  int threads() const override { return threads_; }
  void Stop() override;

 private:
  struct Item {
    Command command;
    int threads = 0;
  };
  bool BelowHalf() const;  // with mutex_ held
  void Work();
  // Runs the first command of the queue. `lock` holds mutex_, and is released meanwhile.
  void RunNext(std::unique_lock<std::mutex>& lock);
  Context& ContextFor(int threads);
  void Execute(const Item& item);

  const ContextFactory create_context_;
  const Waiting waiting_;
  int threads_;  // of the caller's thread

  mutable std::mutex mutex_;
  std::condition_variable work_, progress_;
  std::deque<std::unique_ptr<Item>> queue_;
  QueueLimits limits_;
  size_t pending_ = 0;  // queued and running
  size_t bytes_ = 0;
  bool running_ = false;  // a command is
  bool stop_ = false;
  std::vector<std::function<void()>> callbacks_;  // of WhenBelowHalf

  std::unique_ptr<Context> context_;  // of the thread that runs a command
  int context_threads_ = 0;
  std::thread worker_;
};

}  // namespace lora
