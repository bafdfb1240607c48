#include "core/runtime/stream.h"

#include <new>
#include <string>
#include <utility>

#include "core/error.h"

namespace lora {
namespace {

FailurePtr MakeFailure(const Command& command, std::string code, std::string op,
                       std::string message) {
  return std::make_shared<const Failure>(
      Failure{std::move(code), std::move(op), std::move(message), command.tag});
}

FailurePtr FailedOperand(const Command& command) {
  for (const Operand& operand : command.operands)
    if (operand.access != Access::kOut && operand.status->failure) return operand.status->failure;
  return nullptr;
}

void Settle(const Command& command, const FailurePtr& failure) {
  for (const Operand& operand : command.operands) {
    if (operand.access == Access::kOut) operand.status->failure = failure;
    if (operand.access == Access::kInOut && failure) operand.status->failure = failure;
  }
  if (command.guard && failure) command.guard->Remember(failure);
}

}  // namespace

WorkerStream::WorkerStream(ContextFactory create_context, int threads)
    : create_context_(std::move(create_context)), threads_(threads), worker_([this] { Work(); }) {}

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
    if (item->command.done)
      item->command.done(MakeFailure(item->command, "ERR_DISPOSED", item->command.op,
                                     "the device's queue has ended"));
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
  progress_.wait(lock, [this] { return pending_ == 0; });
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
  for (const auto& item : dropped)
    if (item->command.done)
      item->command.done(MakeFailure(item->command, "ERR_DISPOSED", item->command.op,
                                     "the device's queue has ended"));
  if (worker_.joinable()) worker_.join();
  progress_.notify_all();
  std::unique_lock lock(mutex_);
  const auto callbacks = std::exchange(callbacks_, {});
  lock.unlock();
  for (const auto& callback : callbacks) callback();
}

void WorkerStream::Work() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (queue_.empty()) {
      work_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      continue;
    }
    std::unique_ptr<Item> item = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    const size_t bytes = item->command.bytes;
    Execute(*item);
    item.reset();  // frees what the command captured before `done` is called
    lock.lock();
    --pending_;
    bytes_ -= bytes;
    progress_.notify_all();
    if (callbacks_.empty() || !BelowHalf()) continue;
    const auto callbacks = std::exchange(callbacks_, {});
    lock.unlock();
    for (const auto& callback : callbacks) callback();
    lock.lock();
  }
  context_.reset();
}

void WorkerStream::Execute(Item& item) {
  Command& command = item.command;
  FailurePtr failure = FailedOperand(command);
  if (!failure) {
    try {
      if (command.run) {
        if (!context_ || context_threads_ != item.threads) {
          context_.reset();
          context_ = create_context_(item.threads);
          context_threads_ = item.threads;
        }
        command.run(command.scratch, *context_);
      }
      if (command.done && context_) context_->Finish();
    } catch (const FailurePtr& inherited) {  // of a command on another device
      failure = inherited;
    } catch (const Error& error) {
      std::string message = error.what();
      // A device reports late, so that what it reports may be of an earlier command.
      if (error.code() == "ERR_DEVICE_LOST" && error.op() != command.op)
        message += " (met by " + std::string(command.op) + ")";
      failure = MakeFailure(command, error.code(), error.op(), message);
    } catch (const std::bad_alloc&) {
      failure = MakeFailure(command, "ERR_OUT_OF_MEMORY", command.op,
                            '[' + std::string(command.op) + "] the system has no memory left");
    } catch (const std::exception& error) {
      failure = MakeFailure(command, "ERR_UNSUPPORTED", command.op,
                            '[' + std::string(command.op) + "] failed: " + error.what());
    }
  }
  Settle(command, failure);
  if (command.done) command.done(failure);
}

}  // namespace lora
