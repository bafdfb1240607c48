#include "core/runtime/program.h"

#include <doctest/doctest.h>

#include <future>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/core/test_backend.h"

namespace lora {
namespace {

// A device, and a program that is recorded on it by calls of a made-up op.
struct Recorder {
  std::shared_ptr<Device> device = std::make_shared<HostDevice>("cpu", kBackend, 1);
  std::shared_ptr<Program> program = std::make_shared<Program>(device);

  StoragePtr Plain(size_t bytes) const {
    return std::make_shared<Storage>(device, device->allocator().Allocate(bytes), bytes);
  }
  StoragePtr Make(size_t bytes) const {
    return program->Make(program->pool().Allocate(bytes), bytes);
  }

  using Work = std::function<void(Scratch, Context&)>;
  void Record(const StoragePtr& x, const StoragePtr& y, size_t scratch, Work work) const {
    Step step;
    step.op = "test";
    if (x) step.operands.push_back({x->status(), Access::kIn});
    step.operands.push_back({y->status(), Access::kOut});
    const auto plan = [scratch, work](int threads) {
      return PlannedCall{scratch * static_cast<size_t>(threads), work};
    };
    program->Record(step, x ? std::vector{x} : std::vector<StoragePtr>(), plan(Threads()), plan);
  }
  // *y = *x + 1
  void RecordNext(const StoragePtr& x, const StoragePtr& y, size_t scratch = 0) const {
    Record(x, y, scratch, [from = Value(x), to = Value(y)](Scratch, Context&) { *to = *from + 1; });
  }
  int Threads() const { return device->stream().threads(); }

  void Prepare() const {
    program->Prepare([this](size_t bytes) { return Plain(bytes); });
  }
  void Run(int64_t tag = 0) const {
    Command command = program->Run();
    command.tag = tag;
    device->stream().Enqueue(std::move(command));
  }
  void Set(const StoragePtr& x, int value) const {
    Command command;
    command.op = "set";
    command.operands = {{x->status(), Access::kOut}};
    command.run = [to = Value(x), value](Scratch, Context&) { *to = value; };
    device->stream().Enqueue(std::move(command));
  }
  int Get(const StoragePtr& x) const {
    device->stream().Synchronize();
    return *Value(x);
  }
  static int* Value(const StoragePtr& x) { return static_cast<int*>(x->data()); }
};

constexpr size_t kSize = 4096;

}  // namespace

TEST_CASE("a program computes anew from what its inputs hold at each run") {
  const Recorder it;
  const StoragePtr x = it.Plain(kSize);
  StoragePtr y = it.Make(kSize);
  it.RecordNext(x, y);
  const StoragePtr z = it.Make(kSize);
  it.RecordNext(y, z);
  it.Prepare();
  for (const int value : {5, 7, -3}) {
    it.Set(x, value);
    it.Run();
    CHECK(it.Get(z) == value + 2);
  }
  CHECK_FALSE(z->status()->failure);
}

TEST_CASE("what is dropped while recording makes room for what follows, and for nobody else") {
  const Recorder it;
  const StoragePtr x = it.Plain(kSize);
  const size_t before = it.device->bytes;
  StoragePtr last = x;
  for (int layer = 0; layer < 30; ++layer) {
    StoragePtr next = it.Make(kSize);
    it.RecordNext(last, next);
    last = next;
  }
  CHECK(it.device->bytes == before + 2 * kSize);
  StoragePtr dropped = it.Make(kSize);
  it.RecordNext(last, dropped);
  const void* const address = dropped->data();
  dropped.reset();
  it.Prepare();
  const StoragePtr other = it.Plain(kSize);  // a block for every size, and that one is not free
  CHECK(other->data() != address);
  it.Set(x, 1);
  it.Set(other, 42);
  it.Run();
  CHECK(it.Get(last) == 31);
  CHECK(it.Get(other) == 42);
}

TEST_CASE("the memory of a program goes back when it goes, and that of its outputs when they go") {
  Recorder it;
  StoragePtr y = it.Make(kSize);
  it.Record(nullptr, y, 1 << 20, [](Scratch, Context&) {});
  StoragePtr temporary = it.Make(kSize);
  it.Record(y, temporary, 0, [](Scratch, Context&) {});
  temporary.reset();
  CHECK(it.device->bytes == 2 * kSize);
  it.Prepare();
  CHECK(it.device->bytes == 2 * kSize + (1 << 20));
  it.program.reset();
  CHECK(it.device->bytes == kSize);
  const StoragePtr view = y;
  y.reset();
  CHECK(it.device->bytes == kSize);
}

TEST_CASE("a program holds what was there before it, and not what it made") {
  Recorder it;
  StoragePtr x = it.Plain(kSize);
  const std::weak_ptr<Storage> input = x;
  StoragePtr y = it.Make(kSize);
  const std::weak_ptr<Storage> made = y;
  it.RecordNext(x, y);
  it.RecordNext(y, it.Make(kSize));
  it.Prepare();
  x.reset();
  y.reset();
  CHECK_FALSE(input.expired());
  CHECK(made.expired());
  it.program.reset();
  CHECK(input.expired());
}

TEST_CASE("a failing step fails what depends on it in this run, and the next run begins anew") {
  const Recorder it;
  const StoragePtr x = it.Plain(kSize), a = it.Make(kSize), b = it.Make(kSize),
                   other = it.Make(kSize), half = it.Make(kSize);
  it.Record(x, a, 0, [x = Recorder::Value(x), a = Recorder::Value(a)](Scratch, Context&) {
    if (*x < 0) Throw("ERR_DATA", "test", "expected no negative number");
    *a = *x;
  });
  it.RecordNext(a, b);
  it.RecordNext(x, other);
  // A storage that is written in parts is never made good by a step.
  Step part;
  part.op = "part";
  part.operands = {{b->status(), Access::kIn}, {half->status(), Access::kInOut}};
  const auto plan = [](int) { return PlannedCall{0, [](Scratch, Context&) {}}; };
  it.program->Record(part, {b, half}, plan(1), plan);
  it.Prepare();
  it.Set(x, -1);
  it.Run(7);
  CHECK(it.Get(other) == 0);
  CHECK_FALSE(other->status()->failure);
  const FailurePtr failure = b->status()->failure;
  REQUIRE(failure);
  CHECK(failure->code == "ERR_DATA");
  CHECK(failure->tag == 7);
  CHECK(half->status()->failure == failure);
  it.Set(x, 4);
  it.Run(8);
  CHECK(it.Get(b) == 5);
  CHECK_FALSE(b->status()->failure);
  CHECK_FALSE(half->status()->failure);
}

TEST_CASE("a failed input fails a run, and stays failed") {
  const Recorder it;
  const StoragePtr x = it.Plain(kSize), y = it.Make(kSize);
  it.RecordNext(x, y);
  it.Prepare();
  Command broken;
  broken.op = "broken";
  broken.operands = {{x->status(), Access::kOut}};
  broken.run = [](Scratch, Context&) { Throw("ERR_DATA", "broken", "on purpose"); };
  it.device->stream().Enqueue(std::move(broken));
  it.Run();
  it.device->stream().Synchronize();
  REQUIRE(y->status()->failure);
  CHECK(y->status()->failure == x->status()->failure);
}

TEST_CASE("outputs have no value before the first run, and those of an abandoned recording never") {
  Recorder it;
  const StoragePtr x = it.Plain(kSize), y = it.Make(kSize);
  it.RecordNext(x, y);
  SUBCASE("before the first run") {
    it.Prepare();
    REQUIRE(y->status()->failure);
    CHECK(y->status()->failure->code == "ERR_ARGUMENT");
    CHECK(y->status()->failure->message ==
          "[program] this tensor has no value before the program has run");
    it.Run();
    it.device->stream().Synchronize();
    CHECK_FALSE(y->status()->failure);
  }
  SUBCASE("abandoned") {
    it.program.reset();
    REQUIRE(y->status()->failure);
    CHECK(y->status()->failure->message ==
          "[program] the recording that made this tensor was abandoned");
  }
}

TEST_CASE("all steps share one block of scratch, and other threads mean new plans") {
  const Recorder it;
  const StoragePtr y = it.Make(kSize);
  struct Seen {
    const std::byte* address;
    size_t bytes;
    int threads;
    bool operator==(const Seen&) const = default;
  };
  std::vector<Seen> seen;
  const auto note = [&](Scratch scratch, Context& context) {
    seen.push_back({scratch.data(), scratch.size(), context.threads()});
  };
  it.Record(nullptr, y, 100, note);
  it.Record(nullptr, y, 1000, note);
  it.Record(nullptr, y, 0, note);
  it.Prepare();
  it.Run();
  it.device->stream().SetThreads(3);
  it.Prepare();
  it.Run();
  it.device->stream().Synchronize();
  REQUIRE(seen.size() == 6);
  CHECK(seen[0] == Seen{seen[1].address, 100, 1});
  CHECK(seen[1].bytes == 1000);
  CHECK(seen[2] == Seen{nullptr, 0, 1});
  CHECK(seen[3] == Seen{seen[4].address, 300, 3});
  CHECK(seen[4].bytes == 3000);
  const size_t bytes = it.device->bytes;
  it.device->stream().SetThreads(2);
  it.Prepare();  // fits into the scratch that is there
  CHECK(it.device->bytes == bytes);
  it.Run();
  it.device->stream().Synchronize();
  CHECK(seen[7] == Seen{seen[4].address, 2000, 2});
}

TEST_CASE("a change of threads while a program is recorded is seen") {
  const Recorder it;
  const StoragePtr y = it.Make(kSize);
  std::vector<size_t> bytes;
  const auto note = [&](Scratch scratch, Context&) { bytes.push_back(scratch.size()); };
  it.Record(nullptr, y, 8, note);
  it.device->stream().SetThreads(2);
  it.Record(nullptr, y, 8, note);
  it.device->stream().SetThreads(1);
  it.Prepare();
  it.Run();
  it.device->stream().Synchronize();
  CHECK(bytes == std::vector<size_t>{8, 8});
}

TEST_CASE("a program that cannot get its new scratch runs again with the threads that it had") {
  const Recorder it;
  const StoragePtr y = it.Make(kSize);
  size_t bytes = 0;
  it.Record(nullptr, y, 8, [&](Scratch scratch, Context&) { bytes = scratch.size(); });
  it.Prepare();
  it.device->stream().SetThreads(4);
  CHECK_THROWS_AS(it.program->Prepare([](size_t) -> StoragePtr { throw std::bad_alloc(); }),
                  std::bad_alloc);
  it.device->stream().SetThreads(1);
  it.Prepare();
  it.Run();
  it.device->stream().Synchronize();
  CHECK(bytes == 8);
}

TEST_CASE("a program may go while its runs are queued") {
  Recorder it;
  StoragePtr x = it.Plain(kSize), y = it.Make(kSize);
  it.Record(x, y, 64, [x = Recorder::Value(x), y = Recorder::Value(y)](Scratch scratch, Context&) {
    scratch[63] = std::byte{1};
    *y = *x + 1;
  });
  it.Prepare();
  std::promise<void> gate;
  Command command;
  command.op = "gate";
  command.run = [f = gate.get_future().share()](Scratch, Context&) { f.wait(); };
  it.device->stream().Enqueue(std::move(command));
  it.Set(x, 1);
  int seen = 0;
  for (int i = 0; i < 10; ++i) it.Run();
  Command read;
  read.op = "read";
  read.run = [y = Recorder::Value(y), &seen](Scratch, Context&) { seen = *y; };
  it.device->stream().Enqueue(std::move(read));
  it.program.reset();
  x.reset();
  y.reset();
  CHECK(it.device->bytes == 0);
  // The memory is free for later commands, and goes back to the system after the runs.
  const StoragePtr later = it.Plain(kSize);
  it.Set(later, 99);
  it.device->Trim(0);
  gate.set_value();
  it.device->stream().Synchronize();
  CHECK(seen == 2);
  CHECK(it.Get(later) == 99);
}

TEST_CASE("a context that cannot be made fails the steps, not the process") {
  Backend broken = kBackend;
  broken.create_context = [](int) -> std::unique_ptr<Context> {
    throw std::runtime_error("no threads");
  };
  Recorder it;
  it.device = std::make_shared<HostDevice>("cpu", broken, 1);
  it.program = std::make_shared<Program>(it.device);
  const StoragePtr y = it.Make(kSize);
  it.Record(nullptr, y, 0, [](Scratch, Context&) {});
  it.Prepare();
  it.Run();
  it.device->stream().Synchronize();
  REQUIRE(y->status()->failure);
  CHECK(y->status()->failure->message == "[test] failed: no threads");
}

}  // namespace lora
