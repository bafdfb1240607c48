#include "core/runtime/stream.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/runtime/storage.h"
#include "test/core/test_backend.h"

namespace lora {
namespace {

Command Run(std::function<void(Context&)> run, std::vector<Operand> operands = {}) {
  Command command;
  command.op = "test";
  command.tag = 7;
  command.operands = std::move(operands);
  if (run) command.run = [run = std::move(run)](Scratch, Context& context) { run(context); };
  return command;
}

StatusPtr Good() { return std::make_shared<Status>(); }

void Fail(Context&) { Throw("ERR_DATA", "test", "expected something else"); }

// Keeps a stream busy until it is opened.
struct Gate {
  std::promise<void> promise;
  std::shared_future<void> future{promise.get_future()};
  void Close(Stream& stream) {
    stream.Enqueue(Run([f = future](Context&) { f.wait(); }));
  }
  void Open() { promise.set_value(); }
};

}  // namespace

TEST_CASE("commands run in the order they came, off the caller's thread") {
  WorkerStream stream(kBackend.create_context, 1);
  std::vector<int> order;
  std::thread::id worker;
  for (int i = 0; i < 1000; ++i)
    stream.Enqueue(Run([&, i](Context&) {
      order.push_back(i);
      worker = std::this_thread::get_id();
    }));
  stream.Synchronize();
  REQUIRE(order.size() == 1000);
  for (int i = 0; i < 1000; ++i) CHECK(order[static_cast<size_t>(i)] == i);
  CHECK(worker != std::this_thread::get_id());
  CHECK(stream.idle());
}

// The worker is kept in a callback, where it runs no command.
TEST_CASE("a caller that waits runs what nobody runs, where the stream lets it") {
  Gate command, callback;
  std::promise<void> entered;
  WorkerStream stream(kBackend.create_context, 1, WorkerStream::Waiting::kRuns);  // ends first
  stream.SetLimits({2, 1000});
  command.Close(stream);
  stream.Enqueue(Run([](Context&) {}));
  stream.WhenBelowHalf([&] {
    entered.set_value();
    callback.future.wait();
  });
  command.Open();
  entered.get_future().wait();
  std::thread::id ran;
  stream.Enqueue(Run([&](Context&) { ran = std::this_thread::get_id(); }));
  stream.Synchronize();
  CHECK(ran == std::this_thread::get_id());
  CHECK(stream.idle());
  callback.Open();
}

TEST_CASE("commands run one at a time and in order, whoever runs them") {
  std::atomic<int> running = 0;
  int enqueued = 0, ran = 0;
  bool good = true;
  WorkerStream stream(kBackend.create_context, 1, WorkerStream::Waiting::kRuns);
  for (int round = 0; round < 300; ++round) {
    for (int i = 0; i < round % 7; ++i) {
      stream.Enqueue(Run([&, expected = enqueued++](Context&) {
        good = good && ++running == 1 && ran++ == expected;
        --running;
      }));
    }
    stream.Synchronize();
    CHECK(ran == enqueued);
  }
  CHECK(good);
}

TEST_CASE("a failure poisons what depends on it, and nothing else") {
  WorkerStream stream(kBackend.create_context, 1);
  const StatusPtr a = Good(), b = Good(), c = Good(), other = Good();
  bool dependent_ran = false, other_ran = false;
  stream.Enqueue(Run(Fail, {{a, Access::kOut}}));
  stream.Enqueue(
      Run([&](Context&) { dependent_ran = true; }, {{a, Access::kIn}, {b, Access::kOut}}));
  stream.Enqueue(
      Run([&](Context&) { dependent_ran = true; }, {{b, Access::kIn}, {c, Access::kOut}}));
  stream.Enqueue(Run([&](Context&) { other_ran = true; }, {{other, Access::kOut}}));
  stream.Synchronize();
  REQUIRE(c->failure);
  CHECK(c->failure == a->failure);  // the first failure, not one about a failed operand
  CHECK(c->failure->code == "ERR_DATA");
  CHECK(c->failure->op == "test");
  CHECK(c->failure->message == "[test] expected something else");
  CHECK(c->failure->tag == 7);
  CHECK_FALSE(dependent_ran);
  CHECK(other_ran);
  CHECK_FALSE(other->failure);
}

TEST_CASE("an update with a failed operand keeps its target, and the guard remembers") {
  WorkerStream stream(kBackend.create_context, 1);
  const StatusPtr parameter = Good(), gradient = Good();
  const auto guard = std::make_shared<Guard>();
  bool ran = false;
  stream.Enqueue(Run(Fail, {{gradient, Access::kOut}}));
  Command update =
      Run([&](Context&) { ran = true; }, {{parameter, Access::kUpdate}, {gradient, Access::kIn}});
  update.guard = guard;
  stream.Enqueue(std::move(update));
  stream.Synchronize();
  CHECK_FALSE(ran);
  CHECK_FALSE(parameter->failure);
  REQUIRE(guard->failure());
  CHECK(guard->failure() == gradient->failure);
  guard->Clear();
  CHECK_FALSE(guard->failure());
}

TEST_CASE("an accumulation that did not happen fails its target; a whole write repairs it") {
  WorkerStream stream(kBackend.create_context, 1);
  const StatusPtr source = Good(), target = Good();
  stream.Enqueue(Run(Fail, {{source, Access::kOut}}));
  stream.Enqueue(Run([](Context&) {}, {{source, Access::kIn}, {target, Access::kInOut}}));
  stream.Synchronize();
  CHECK(target->failure);
  stream.Enqueue(Run([](Context&) {}, {{target, Access::kOut}}));
  stream.Synchronize();
  CHECK_FALSE(target->failure);
}

TEST_CASE("a target that has failed is neither added to nor updated, and stays failed") {
  for (const Access access : {Access::kInOut, Access::kUpdate}) {
    WorkerStream stream(kBackend.create_context, 1);
    const StatusPtr target = Good();
    bool ran = false;
    FailurePtr told;
    stream.Enqueue(Run(Fail, {{target, Access::kOut}}));
    Command command = Run([&](Context&) { ran = true; }, {{target, access}});
    command.done = [&](const FailurePtr& failure) { told = failure; };
    stream.Enqueue(std::move(command));
    stream.Synchronize();
    CHECK_FALSE(ran);
    REQUIRE(target->failure);
    CHECK(told == target->failure);
  }
}

TEST_CASE("bad_alloc and foreign exceptions become failures") {
  WorkerStream stream(kBackend.create_context, 1);
  const StatusPtr a = Good(), b = Good();
  stream.Enqueue(Run([](Context&) { throw std::bad_alloc(); }, {{a, Access::kOut}}));
  stream.Enqueue(Run([](Context&) { throw std::runtime_error("odd"); }, {{b, Access::kOut}}));
  stream.Synchronize();
  REQUIRE(a->failure);
  CHECK(a->failure->code == "ERR_OUT_OF_MEMORY");
  REQUIRE(b->failure);
  CHECK(b->failure->message == "[test] failed: odd");
}

TEST_CASE("done is told of success and of failure, after the status is set") {
  WorkerStream stream(kBackend.create_context, 1);
  const StatusPtr a = Good();
  std::vector<std::string> told;
  for (const bool fails : {false, true}) {
    Command command = Run(fails ? Fail : [](Context&) {}, {{a, Access::kOut}});
    command.done = [&](const FailurePtr& failure) {
      told.push_back(failure ? failure->message : "ok");
      CHECK(a->failure == failure);
    };
    stream.Enqueue(std::move(command));
  }
  stream.Synchronize();
  CHECK(told == std::vector<std::string>{"ok", "[test] expected something else"});
}

// What a command captured may be the last reference to something whose end uses the stream.
TEST_CASE("what a command captured goes before the stream is idle, and may ask the stream") {
  struct Probe {
    Stream& stream;
    std::future<bool>& idle;
    bool& answered;
    ~Probe() {
      idle = std::async(std::launch::async, [&s = stream] { return s.idle(); });
      // An answer that nothing delays takes far less.
      answered = idle.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    }
  };
  std::future<bool> idle;
  bool answered = false;
  {
    WorkerStream stream(kBackend.create_context, 1);
    stream.Enqueue(
        Run([probe = std::shared_ptr<Probe>(new Probe{stream, idle, answered})](Context&) {}));
    stream.Synchronize();
    CHECK(stream.idle());
  }
  CHECK(answered);
  REQUIRE(idle.valid());
  CHECK_FALSE(idle.get());
}

TEST_CASE("the queue is full at its limit of commands or bytes, and a wait ends below half") {
  WorkerStream stream(kBackend.create_context, 1);
  stream.SetLimits({8, 1000});
  Gate gate;
  gate.Close(stream);
  SUBCASE("commands") {
    for (int i = 0; i < 6; ++i) stream.Enqueue(Run([](Context&) {}));
    CHECK_FALSE(stream.full());
    stream.Enqueue(Run([](Context&) {}));
    CHECK(stream.full());
  }
  SUBCASE("bytes") {
    Command command = Run([](Context&) {});
    command.bytes = 1000;
    stream.Enqueue(std::move(command));
    CHECK(stream.full());
  }
  std::atomic<bool> waited = false;
  std::thread waiter([&] {
    stream.WaitBelowHalf();
    waited = true;
  });
  CHECK_FALSE(waited);
  gate.Open();
  waiter.join();
  CHECK(waited);
  stream.Synchronize();
  CHECK_FALSE(stream.full());
}

TEST_CASE("who asks for room is called back once below half, or when the stream ends") {
  WorkerStream stream(kBackend.create_context, 1);
  stream.SetLimits({4, 1000});
  int called = 0;
  stream.WhenBelowHalf([&] { ++called; });
  CHECK(called == 1);  // there was room
  Gate first, second;
  first.Close(stream);
  second.Close(stream);
  CHECK(stream.half_empty());
  stream.Enqueue(Run([](Context&) {}));
  CHECK_FALSE(stream.half_empty());
  CHECK_FALSE(stream.full());
  std::promise<void> room;
  stream.WhenBelowHalf([&] { room.set_value(); });
  std::future<void> told = room.get_future();
  CHECK(told.wait_for(std::chrono::milliseconds(1)) == std::future_status::timeout);
  first.Open();
  told.wait();  // two commands of four are left
  CHECK(stream.half_empty());
  for (int i = 0; i < 3; ++i) stream.Enqueue(Run([](Context&) {}));
  std::atomic<int> ended = 0;
  stream.WhenBelowHalf([&] { ++ended; });
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    second.Open();
  });
  stream.Stop();
  opener.join();
  CHECK(ended == 1);
  stream.WhenBelowHalf([&] { ++ended; });
  CHECK(ended == 2);
}

TEST_CASE("the number of threads changes in order") {
  WorkerStream stream(kBackend.create_context, 3);
  Gate gate;
  gate.Close(stream);
  std::vector<int> threads;
  const auto note = [&](Context& context) { threads.push_back(context.threads()); };
  stream.Enqueue(Run(note));
  stream.SetThreads(5);
  CHECK(stream.threads() == 5);
  stream.Enqueue(Run(note));
  gate.Open();
  stream.Synchronize();
  CHECK(threads == std::vector<int>{3, 5});
}

TEST_CASE("a stream that ends drops what has not started, tells it, and refuses more") {
  auto stream = std::make_unique<WorkerStream>(kBackend.create_context, 1);
  Gate gate;
  gate.Close(*stream);
  bool ran = false;
  int told = 0;
  for (int i = 0; i < 3; ++i) {
    Command command = Run([&](Context&) { ran = true; });
    command.done = [&](const FailurePtr& failure) {
      REQUIRE(failure);
      CHECK(failure->code == "ERR_DISPOSED");
      ++told;
    };
    stream->Enqueue(std::move(command));
  }
  // The gate opens only after Stop has begun to wait for it.
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    gate.Open();
  });
  stream->Stop();
  opener.join();
  CHECK_FALSE(ran);
  CHECK(told == 3);
  Command late = Run([&](Context&) { ran = true; });
  late.done = [&](const FailurePtr&) { ++told; };
  stream->Enqueue(std::move(late));
  stream->Synchronize();
  CHECK_FALSE(ran);
  CHECK(told == 4);
}

TEST_CASE("a context that cannot be made fails the command, not the process") {
  Backend broken = kBackend;
  broken.create_context = [](int) -> std::unique_ptr<Context> {
    throw std::runtime_error("no threads");
  };
  WorkerStream stream(broken.create_context, 1);
  const StatusPtr a = Good();
  stream.Enqueue(Run([](Context&) {}, {{a, Access::kOut}}));
  stream.Synchronize();
  REQUIRE(a->failure);
  CHECK(a->failure->message == "[test] failed: no threads");
}

// This work goes on after a command has returned, as kernels do.
class LateContext final : public Context {
 public:
  explicit LateContext(int* started, int* finished) : started_(started), finished_(finished) {}
  void Finish() override {
    if (*started_ == 13) Throw("ERR_DEVICE_LOST", "gpu", "unlucky");
    *finished_ = *started_;
  }

 private:
  int *started_, *finished_;
};

TEST_CASE("work that a command only starts is done before done is told, and before Synchronize") {
  int started = 0, finished = 0;
  WorkerStream stream([&](int) { return std::make_unique<LateContext>(&started, &finished); }, 1);
  std::vector<int> told;
  for (int i = 0; i < 3; ++i) stream.Enqueue(Run([&](Context&) { ++started; }));
  Command read = Run([&](Context&) { told.push_back(finished); });
  read.done = [&](const FailurePtr& failure) {
    CHECK_FALSE(failure);
    told.push_back(finished);
  };
  stream.Enqueue(std::move(read));
  stream.Synchronize();
  CHECK(told == std::vector<int>{0, 3});
  stream.Enqueue(Run([&](Context&) { ++started; }));
  stream.Synchronize();
  CHECK(finished == 4);
}

TEST_CASE("a device that is lost fails the command that waits for it") {
  int started = 0, finished = 0;
  WorkerStream stream([&](int) { return std::make_unique<LateContext>(&started, &finished); }, 1);
  const StatusPtr status = Good();
  FailurePtr told;
  Command command = Run([&](Context&) { started = 13; }, {{status, Access::kOut}});
  command.done = [&](const FailurePtr& failure) { told = failure; };
  stream.Enqueue(std::move(command));
  stream.Synchronize();
  REQUIRE(told);
  CHECK(told->code == "ERR_DEVICE_LOST");
  CHECK(told->message == "[gpu] unlucky (met by test)");
  CHECK(status->failure == told);
}

TEST_CASE("memory is reused in stream order while older commands still use it") {
  const auto device = std::make_shared<HostDevice>("cpu", kBackend, 1);
  constexpr size_t kBytes = 1 << 20;
  const auto make = [&] {
    return std::make_shared<Storage>(device, device->allocator().Allocate(kBytes), kBytes);
  };
  Gate gate;
  gate.Close(device->stream());
  StoragePtr first = make();
  int* const address = static_cast<int*>(first->data());
  int read = 0;
  device->stream().Enqueue(Run([address](Context&) { *address = 1; }));
  device->stream().Enqueue(Run([address, &read](Context&) { read = *address; }));
  first.reset();  // the commands above have not run yet
  CHECK(device->bytes == 0);
  const StoragePtr second = make();
  CHECK(second->data() == address);
  CHECK_FALSE(second->fresh());
  device->stream().Enqueue(Run([address](Context&) { *address = 2; }));
  gate.Open();
  device->stream().Synchronize();
  CHECK(read == 1);
  CHECK(*address == 2);
}

TEST_CASE("trimmed memory goes back to the system only after the commands that use it") {
  const auto device = std::make_shared<HostDevice>("cpu", kBackend, 1);
  constexpr size_t kBytes = 8 << 20;
  Gate gate;
  gate.Close(device->stream());
  auto storage = std::make_shared<Storage>(device, device->allocator().Allocate(kBytes), kBytes);
  char* const data = static_cast<char*>(storage->data());
  device->stream().Enqueue(Run([data](Context&) { std::memset(data, 1, kBytes); }));
  storage.reset();
  const size_t used = HostMemoryBudget().used();
  device->Trim(0);
  CHECK(device->allocator().cached() == 0);
  CHECK(HostMemoryBudget().used() == used);  // still mapped: the command above writes there
  gate.Open();
  device->stream().Synchronize();
  CHECK(HostMemoryBudget().used() == used - kBytes);
}

namespace {

// Plays a GPU: memory that cannot be touched, and a context that counts how often it is waited for.
struct Played {
  size_t unmapped = 0;
  int waits = 0;
};
class PlayedMemory final : public MemorySource {
 public:
  explicit PlayedMemory(Played& played) : played_(played) {}
  void* Map(size_t) override { return reinterpret_cast<void*>(next_ += 4096); }
  void Unmap(void*, size_t bytes) override { played_.unmapped += bytes; }
  size_t free() const override { return 0; }

 private:
  Played& played_;
  uintptr_t next_ = 0;
};
class WaitingContext final : public Context {
 public:
  explicit WaitingContext(Played& played) : played_(played) {}
  void Finish() override { ++played_.waits; }

 private:
  Played& played_;
};
class PlayedDevice final : public Device {
 public:
  explicit PlayedDevice(Played& played)
      : Device("gpu", kBackend, std::make_unique<PlayedMemory>(played),
               std::make_unique<WorkerStream>(
                   [&played](int) { return std::make_unique<WaitingContext>(played); }, 1)) {}
  ~PlayedDevice() override { stream().Stop(); }
  void CopyTo(void*, const void*, size_t, Context&) override {}
  void CopyFrom(void*, const void*, size_t, Context&) override {}
  bool host_memory() const override { return false; }
};

}  // namespace

TEST_CASE("a device keeps its own memory until it is asked to give it back, and does not wait") {
  constexpr size_t kBytes = size_t{256} << 20;
  Played played;
  {
    const auto device = std::make_shared<PlayedDevice>(played);
    device->stream().Enqueue(Run([](Context&) {}));  // makes the context
    std::vector<StoragePtr> held;
    for (int i = 0; i < 8; ++i)
      held.push_back(
          std::make_shared<Storage>(device, device->allocator().Allocate(kBytes), kBytes));
    held.clear();
    device->stream().Synchronize();
    CHECK(device->allocator().cached() == 8 * kBytes);
    CHECK(played.unmapped == 0);
    CHECK(played.waits == 1);  // that of Synchronize()
    device->Trim(0);
    device->stream().Synchronize();
    CHECK(played.unmapped == 8 * kBytes);
    CHECK(played.waits == 3);
  }
}

}  // namespace lora
