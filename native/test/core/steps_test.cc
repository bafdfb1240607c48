// Tests how the steps of a program run on a device that captures work, which the test plays.
#include "core/runtime/steps.h"

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/ops/tensor_view.h"

namespace lora {
namespace {

using Names = std::vector<std::string>;

struct PlayedGraph final : Graph {
  PlayedGraph(Names launches, int* live) : launches(std::move(launches)), live(live) { ++*live; }
  ~PlayedGraph() override { --*live; }
  const Names launches;
  int* const live;
};

// Lists what the device does. A graph shows as its launches in brackets.
class PlayedContext final : public Context, public Graphs {
 public:
  Graphs* graphs() override { return captures ? this : nullptr; }

  // What ops call.
  void Launch(const std::string& name) {
    ++given_.launches;
    (held_ != nullptr ? *held_ : ran).push_back(name);
  }
  void Wait() {
    if (held_ != nullptr) throw std::logic_error("a wait of an op that launches nothing");
    given_.waited = true;
    ran.push_back("wait");
  }

  Given TakeGiven() override { return std::exchange(given_, {}); }
  std::optional<std::string> Trace(const Work& work) override {
    Names launches;
    Hold(work, launches);
    std::string text;
    for (const std::string& name : launches) text += name + " ";
    return text;
  }
  std::unique_ptr<Graph> Capture(const Work& work) override {
    ++asked_captures;
    Names launches;
    Hold(work, launches);
    if (refuses_captures) return nullptr;
    return std::make_unique<PlayedGraph>(launches, &live_graphs);
  }
  bool Launch(Graph& graph) override {
    if (refuses_graphs) return false;
    std::string text = "[";
    for (const std::string& name : static_cast<PlayedGraph&>(graph).launches)
      text += (text.size() > 1 ? " " : "") + name;
    ran.push_back(text + "]");
    return true;
  }

  bool captures = true, refuses_captures = false, refuses_graphs = false;
  Names ran;
  int asked_captures = 0, live_graphs = 0;

 private:
  void Hold(const Work& work, Names& launches) {
    held_ = &launches;
    try {
      work();
    } catch (...) {
      held_ = nullptr;
      throw;
    }
    held_ = nullptr;
  }

  Given given_;
  Names* held_ = nullptr;
};

// Steps that write a storage of their own each, after the one that they read.
struct Recorded {
  PlayedContext context;
  Steps steps;
  StatusPtr input = std::make_shared<Status>();

  using Work = std::function<void(PlayedContext&)>;
  StatusPtr Add(const StatusPtr& from, Work work, Access access = Access::kOut,
                StatusPtr to = nullptr) {
    if (!to) {
      to = std::make_shared<Status>();
      steps.made.push_back(to);
    }
    Step step;
    step.op = "test";
    step.operands = {{from, Access::kIn}, {to, access}};
    step.run = [work = std::move(work)](Scratch, Context& context) {
      work(static_cast<PlayedContext&>(context));
    };
    steps.steps.push_back(std::move(step));
    return to;
  }
  StatusPtr AddLaunch(const StatusPtr& from, const std::string& name) {
    return Add(from, [name](PlayedContext& context) { context.Launch(name); });
  }
  void AddWait(const StatusPtr& from) {
    Add(from, [](PlayedContext& context) { context.Wait(); });
  }
  // Returns what a run has the device do.
  Names Run(int64_t tag = 0) {
    context.ran.clear();
    steps.Run(tag, [this]() -> Context& { return context; });
    return context.ran;
  }
};

// An operand of which the host keeps a copy.
struct Kept {
  explicit Kept(const StatusPtr& status) : status(status) {
    status->host_copy = std::make_unique<HostCopy>(&device, sizeof device);
    Set(0);
  }
  void Set(int32_t value) const { status->host_copy->Wrote(&device, &value, sizeof value); }
  // Returns −1 where the host does not know.
  int32_t Get() const {
    TensorView view(const_cast<int32_t*>(&device), DType::kI32, {1});
    view.host_copy = status->host_copy.get();
    const TensorView known = view.on_host();
    return known ? *known.as<int32_t>() : -1;
  }
  const StatusPtr status;
  const int32_t device = 0;  // its address alone counts
};

}  // namespace

TEST_CASE("steps: the first run is ordinary, and the next ones launch graphs between the waits") {
  Recorded it;
  const StatusPtr a = it.AddLaunch(it.input, "a");
  const StatusPtr b = it.AddLaunch(a, "b");
  it.AddWait(b);
  it.AddLaunch(b, "alone");
  it.AddWait(b);
  it.AddLaunch(b, "c");
  it.AddLaunch(a, "d");
  CHECK(it.Run() == Names{"a", "b", "wait", "alone", "wait", "c", "d"});
  const Names again = {"[a b]", "wait", "alone", "wait", "[c d]"};
  for (int run = 0; run < 3; ++run) CHECK(it.Run() == again);
  CHECK(it.context.asked_captures == 2);
  CHECK(it.context.live_graphs == 2);
  it.steps = Steps();
  CHECK(it.context.live_graphs == 0);
}

TEST_CASE("steps: without a context that captures, every run is ordinary") {
  Recorded it;
  it.context.captures = false;
  it.AddLaunch(it.AddLaunch(it.input, "a"), "b");
  for (int run = 0; run < 3; ++run) CHECK(it.Run() == Names{"a", "b"});
  int asked = 0;
  it.steps.Run(7, [&]() -> Context& {
    ++asked;
    Throw("ERR_DEVICE_UNAVAILABLE", "device", "it is gone");
  });
  CHECK(asked > 1);
  REQUIRE(it.steps.made[1]->failure);
  CHECK(it.steps.made[1]->failure->code == "ERR_DEVICE_UNAVAILABLE");
  CHECK(it.steps.made[1]->failure->tag == 7);
}

TEST_CASE("steps: a failed operand leaves the graph out for a run, with the marks of commands") {
  Recorded it;
  const StatusPtr a = it.AddLaunch(it.input, "a");
  const StatusPtr b = it.AddLaunch(a, "b");
  const StatusPtr good = std::make_shared<Status>();
  const StatusPtr other = it.AddLaunch(good, "c");
  it.Run();
  CHECK(it.Run() == Names{"[a b c]"});
  it.input->failure = std::make_shared<const Failure>(Failure{"ERR_DATA", "x", "bad", 3});
  CHECK(it.Run() == Names{"c"});
  CHECK(a->failure == it.input->failure);
  CHECK(b->failure == it.input->failure);
  CHECK_FALSE(other->failure);
  it.input->failure = nullptr;
  CHECK(it.Run() == Names{"[a b c]"});
  CHECK_FALSE(b->failure);
  CHECK(it.context.asked_captures == 1);
}

TEST_CASE("steps: a storage from outside that a graph writes whole is good afterwards") {
  Recorded it;
  const StatusPtr whole = std::make_shared<Status>(), part = std::make_shared<Status>();
  it.Add(it.input, [](PlayedContext& context) { context.Launch("a"); }, Access::kOut, whole);
  it.Add(it.input, [](PlayedContext& context) { context.Launch("b"); }, Access::kInOut, part);
  it.Run();
  CHECK(it.Run() == Names{"[a b]"});
  const auto failure = std::make_shared<const Failure>(Failure{"ERR_DATA", "x", "bad", 3});
  whole->failure = failure;
  CHECK(it.Run() == Names{"a", "b"});
  CHECK_FALSE(whole->failure);
  CHECK(it.Run() == Names{"[a b]"});
  part->failure = failure;
  for (int run = 0; run < 2; ++run) CHECK(it.Run() == Names{"a"});
  CHECK(part->failure == failure);
}

TEST_CASE("steps: what looks at the host's copy looks in every run, before the graph") {
  Recorded it;
  const Kept ids(it.input);
  const StatusPtr a = it.AddLaunch(std::make_shared<Status>(), "a");
  int looks = 0;
  const StatusPtr b = it.Add(it.input, [&](PlayedContext& context) {
    ++looks;
    if (ids.Get() > 9) Throw("ERR_DATA", "test", "expected ids up to 9 but received ", ids.Get());
    if (ids.Get() < 0) context.Wait();
    context.Launch(ids.Get() == 5 ? "b of 5" : "b");
  });
  const StatusPtr c = it.AddLaunch(b, "c");
  CHECK(it.Run() == Names{"a", "b", "c"});
  ids.Set(1);
  CHECK(it.Run() == Names{"[a b c]"});
  looks = 0;
  CHECK(it.Run() == Names{"[a b c]"});
  CHECK(looks == 1);
  ids.Set(10);
  CHECK(it.Run(4) == Names{"a"});
  REQUIRE(c->failure);
  CHECK(c->failure->message == "[test] expected ids up to 9 but received 10");
  CHECK(c->failure->tag == 4);
  CHECK_FALSE(a->failure);
  ids.Set(5);  // another launch
  CHECK(it.Run() == Names{"a", "b of 5", "c"});
  ids.Set(2);
  CHECK(it.Run() == Names{"[a b c]"});
  it.input->host_copy->Forget();  // a kernel wrote there
  CHECK(it.Run() == Names{"a", "wait", "b", "c"});
  ids.Set(2);
  CHECK(it.Run() == Names{"[a b c]"});
  CHECK(it.context.asked_captures == 1);
}

TEST_CASE("steps: a graph ends before a step that writes what its steps look at") {
  Recorded it;
  const Kept ids(std::make_shared<Status>());
  const auto launches = [](const std::string& name) {
    return [name](PlayedContext& context) { context.Launch(name); };
  };
  const auto looks = [&](PlayedContext& context) {
    if (ids.Get() < 0) return context.Wait();
    context.Launch("known");
  };
  it.Add(ids.status, looks);
  it.Add(it.input, launches("a"));
  it.Add(it.input, launches("writes ids"), Access::kInOut, ids.status);
  it.Add(ids.status, looks);
  CHECK(it.Run() == Names{"known", "a", "writes ids", "wait"});
  ids.Set(1);
  CHECK(it.Run() == Names{"[known a]", "writes ids", "wait"});
  CHECK(ids.Get() == -1);
  CHECK(it.Run() == Names{"wait", "a", "writes ids", "wait"});
}

TEST_CASE("steps: the host does not know what a graph wrote") {
  Recorded it;
  const Kept ids(std::make_shared<Status>());
  it.AddLaunch(it.input, "a");
  it.Add(
      it.input, [](PlayedContext& context) { context.Launch("writes ids"); }, Access::kInOut,
      ids.status);
  it.Run();
  ids.Set(1);
  CHECK(it.Run() == Names{"[a writes ids]"});
  CHECK(ids.Get() == -1);
}

// A copy of a part leaves the other parts known.
TEST_CASE("steps: a step that copies from the host leaves the host's copies, and others do not") {
  for (const bool copies : {true, false}) {
    CAPTURE(copies);
    Recorded it;
    const Kept ids(std::make_shared<Status>());
    it.Add(
        it.input, [](PlayedContext& context) { context.Launch("writes ids"); }, Access::kInOut,
        ids.status);
    it.steps.steps.back().copies_from_host = copies;
    ids.Set(1);
    it.Run();
    CHECK(ids.Get() == (copies ? 1 : -1));
  }
}

TEST_CASE("steps: a refused capture, or a refused graph, leaves a piece to commands for good") {
  for (const bool capture : {true, false}) {
    CAPTURE(capture);
    Recorded it;
    const StatusPtr b = it.AddLaunch(it.AddLaunch(it.input, "a"), "b");
    it.Run();
    (capture ? it.context.refuses_captures : it.context.refuses_graphs) = true;
    CHECK(it.Run() == Names{"a", "b"});
    CHECK(it.context.live_graphs == 0);
    it.context.refuses_captures = it.context.refuses_graphs = false;
    CHECK(it.Run() == Names{"a", "b"});
    CHECK(it.context.asked_captures == 1);
    CHECK_FALSE(b->failure);
  }
}

TEST_CASE("steps: a first run in which a step fails tells nothing") {
  Recorded it;
  it.input->failure = std::make_shared<const Failure>(Failure{"ERR_DATA", "x", "bad", 3});
  it.AddLaunch(it.AddLaunch(it.input, "a"), "b");
  CHECK(it.Run() == Names{});
  it.input->failure = nullptr;
  CHECK(it.Run() == Names{"a", "b"});
  CHECK(it.Run() == Names{"[a b]"});
}

}  // namespace lora
