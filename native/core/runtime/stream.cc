#include "core/runtime/stream.h"

#include <utility>

namespace lora {
namespace {

FailurePtr Ended(const Command& command) {
  return MakeFailure(command, command.tag, "ERR_DISPOSED", command.op,
                     "the device's queue has ended");
}

}  // namespace

WorkerStream::WorkerStream(ContextFactory create_context, int threads, Waiting waiting)
    : create_context_(std::move(create_context)),
      waiting_(waiting),
      threads_(threads),
      worker_([this] { Work(); }) {}

WorkerStream::~WorkerStream() { Stop(); }

void WorkerStream::Enqueue(Command command) {
  auto item = std::make_unique<Item>(Item{std::move(command), threads_});
  {
    const std::lock_guard lock(mutex_);
    if (!stop_) {
      ++pending_;
      bytes_ += item->command.bytes;
      queue_.push_back(std::move(item));
    }
  }
  if (item) {  // stopped
    if (item->command.done) item->command.done(Ended(item->command));
    return;
  }
  work_.notify_one();
}

void WorkerStream::Synchronize() {
  // The last command may have started work that nobody waits for yet; one with a `done` does.
  Command command;
  command.op = "synchronize";
  command.done = [](const FailurePtr&) {};
  Enqueue(std::move(command));
  std::unique_lock lock(mutex_);
  while (pending_ != 0) {
    if (waiting_ == Waiting::kRuns && !running_ && !queue_.empty()) {
      RunNext(lock);
    } else {
      progress_.wait(lock);
    }
  }
}

bool WorkerStream::idle() const {
  const std::lock_guard lock(mutex_);
  return pending_ == 0;
}

void WorkerStream::SetLimits(QueueLimits limits) {
  const std::lock_guard lock(mutex_);
  limits_ = limits;
}

bool WorkerStream::full() const {
  const std::lock_guard lock(mutex_);
  return pending_ >= limits_.commands || bytes_ >= limits_.bytes;
}

bool WorkerStream::half_empty() const {
  const std::lock_guard lock(mutex_);
  return BelowHalf();
}

bool WorkerStream::BelowHalf() const {
  return pending_ <= limits_.commands / 2 && bytes_ <= limits_.bytes / 2;
}

void WorkerStream::WaitBelowHalf() {
  std::unique_lock lock(mutex_);
  progress_.wait(lock, [this] { return BelowHalf(); });
}

void WorkerStream::WhenBelowHalf(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (!stop_ && !BelowHalf()) {
      callbacks_.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

void WorkerStream::SetThreads(int threads) { threads_ = threads; }

void WorkerStream::Stop() {
  std::deque<std::unique_ptr<Item>> dropped;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    dropped.swap(queue_);
    for (const auto& item : dropped) {
      --pending_;
      bytes_ -= item->command.bytes;
    }
  }
  work_.notify_all();
  if (worker_.joinable()) worker_.join();
  // After the command that ran: a `done` may unmap what it used.
  for (const auto& item : dropped)
    if (item->command.done) item->command.done(Ended(item->command));
  progress_.notify_all();
  std::unique_lock lock(mutex_);
  const auto callbacks = std::exchange(callbacks_, {});
  lock.unlock();
  for (const auto& callback : callbacks) callback();
}

void WorkerStream::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stop_ || (!queue_.empty() && !running_); });
    if (stop_) break;
    RunNext(lock);
  }
  context_.reset();
}

void WorkerStream::RunNext(std::unique_lock<std::mutex>& lock) {
  std::unique_ptr<Item> item = std::move(queue_.front());
  queue_.pop_front();
  running_ = true;
  lock.unlock();
  const size_t bytes = item->command.bytes;
  Execute(*item);
  item.reset();  // frees what the command captured before `done` is called
  lock.lock();
  running_ = false;
  --pending_;
  bytes_ -= bytes;
  progress_.notify_all();
  if (callbacks_.empty() || !BelowHalf()) return;
  const auto callbacks = std::exchange(callbacks_, {});
  lock.unlock();
  for (const auto& callback : callbacks) callback();
  lock.lock();
}

Context& WorkerStream::ContextFor(int threads) {
  if (!context_ || context_threads_ != threads) {
    context_.reset();
    context_ = create_context_(threads);
    context_threads_ = threads;
  }
  return *context_;
}

void WorkerStream::Execute(const Item& item) {
  const Command& command = item.command;
  const auto context = [&]() -> Context& { return ContextFor(item.threads); };
  if (command.steps) command.steps->Run(command.tag, context);
  const FailurePtr failure = RunStep(command, command.tag, [&] {
    if (command.run) command.run(command.scratch, context());
    if (command.done && context_) context_->Finish();
  });
  if (command.done) command.done(failure);
}

}  // namespace lora
