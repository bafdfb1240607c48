// Runs the blocks of a launch one after another, and the threads of a block as fibers that switch
// only where a thread waits. Which thread or block goes first is an option, so that no report
// depends on chance.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <thread>

#include "backend/cuda/occupancy.h"
#include "simt/banks.h"
#include "simt/state.h"

namespace lora::simt {

World world;

namespace {

std::map<std::pair<int, const void*>, size_t> opt_ins;

int Pick() {
  const size_t waiting = world.ready.size() - world.ready_head;
  if (waiting == 0) return -1;
  if (world.options.threads == Schedule::kRandom)
    std::swap(world.ready[world.ready_head],
              world.ready[world.ready_head + world.random() % waiting]);
  const int next = world.ready[world.ready_head++];
  if (world.ready_head == world.ready.size()) {
    world.ready.clear();
    world.ready_head = 0;
  }
  return next;
}

[[noreturn]] void Deadlock() {
  struct Group {
    size_t threads = 0;
    int first = 0;
  };
  std::map<std::string, Group> groups;
  Site example = 0;
  for (int i = 0; i < world.count; ++i) {
    const Thread& t = *world.threads[static_cast<size_t>(i)];
    std::string what = "left the kernel";
    if (t.state != State::kDone) {
      example = SiteOf(t.waits_at);
      what = std::string("wait in ") + t.waits_in + " at " + Resolve({example})[0];
    }
    Group& group = groups[what];
    if (group.threads++ == 0) group.first = i;
  }
  std::string text = "no thread can run:";
  for (const auto& [what, group] : groups)
    text += " " + std::to_string(group.threads) +
            " threads (first: " + std::to_string(group.first) + ") " + what + ";";
  text.back() = '.';
  Record(Kind::kDeadlock, Who() + ": " + text, example);
  world.fatal = true;
  LeaveLaunch();
}

// Switches from the current fiber to the next one that can run.
void Yield() {
  const int from = world.current, to = Pick();
  if (to < 0) Deadlock();
  world.current = to;
  if (to != from)
    Fiber::Switch(world.threads[static_cast<size_t>(from)]->fiber,
                  world.threads[static_cast<size_t>(to)]->fiber);
}

void ThreadMain() {
  world.inside = false;
  world.call->body(world.call->context);
  world.inside = true;
  CheckLastStore();
  CheckCopiesAtExit();
  Thread& t = world.self();
  if (world.options.programmatic && !t.dependency_waited && Fresh(Kind::kBeforeWait, 0))
    Record(Kind::kBeforeWait,
           Who() +
               " leaves %a without griddepcontrol.wait: a launch after it could overlap the one "
               "before",
           reinterpret_cast<Site>(world.call->kernel) + 1);
  t.state = State::kDone;
  if (--world.alive == 0) LeaveLaunch();
  Yield();
  __builtin_unreachable();
}

void BeginBlock() {
  const size_t n = static_cast<size_t>(world.count);
  ++world.epoch;
  ResetShadow();
  ForgetLastStore();
  // This is a NaN in every float format.
  std::memset(world.shared, 0xff, world.shared_end + 4096);
  const uint32_t start = world.clock + 1;
  const auto base = std::make_shared<Clock>(Clock{Times(2 * n, start - 1), {}});
  while (world.threads.size() < n) world.threads.push_back(std::make_unique<Thread>());
  world.warps.assign((n + 31) / 32, Meeting());
  for (Barrier& barrier : world.barriers) barrier = Barrier();
  world.acquired = false;
  world.ready.clear();
  world.ready_head = 0;
  world.alive = world.count;
  for (size_t i = 0; i < n; ++i) {
    Thread& t = *world.threads[i];
    t.id = static_cast<int>(i);
    t.state = State::kReady;
    t.base = base;
    t.own = t.issued = start;
    t.landed = start - 1;
    t.open.clear();
    t.groups.clear();
    t.dependency_waited = false;
    t.fiber.Prepare(ThreadMain);
    world.ready.push_back(
        static_cast<int>(world.options.threads == Schedule::kReverse ? n - 1 - i : i));
  }
}

void RunBlock(uint64_t index) {
  const Dim3& grid = world.call->grid;
  world.block_index = {static_cast<unsigned>(index % grid.x),
                       static_cast<unsigned>(index / grid.x % grid.y),
                       static_cast<unsigned>(index / grid.x / grid.y)};
  BeginBlock();
  world.current = Pick();
  Fiber::Switch(world.main, world.threads[static_cast<size_t>(world.current)]->fiber);
  world.current = -1;
  world.inside = true;
  EndBanksOfBlock();
  for (int i = 0; i < world.count; ++i) {
    const Thread& t = *world.threads[static_cast<size_t>(i)];
    world.clock = std::max({world.clock, t.own, t.issued});
  }
}

// Says what the driver would answer with cudaErrorInvalidConfiguration or cudaErrorInvalidValue.
std::string Refusal(const Options& options, const internal::Call& call) {
  const Dim3 &g = call.grid, &b = call.block;
  const auto number = [](auto n) { return std::to_string(n); };
  if (g.x == 0 || g.y == 0 || g.z == 0) return "the grid has no blocks";
  if (g.x > 0x7fffffffu) return "grid.x is " + number(g.x) + ", above 2^31 - 1";
  if (g.y > 65535 || g.z > 65535)
    return "grid.y or grid.z is " + number(std::max(g.y, g.z)) + ", above 65535";
  const uint64_t threads = uint64_t{b.x} * b.y * b.z;
  if (threads == 0) return "the block has no threads";
  if (b.y != 1 || b.z != 1) return "kernels here use one-dimensional blocks";
  if (threads > 1024) return number(threads) + " threads in a block, above 1024";
  if (threads > static_cast<uint64_t>(call.max_threads))
    return number(threads) + " threads in a block, and the kernel is bound to " +
           number(call.max_threads);
  const cuda::Multiprocessor* const device = cuda::MultiprocessorOf(options.arch);
  if (device == nullptr) return "nothing is known of sm_" + number(options.arch);
  const size_t limit = device->shared_bytes;
  if (call.shared_bytes > limit)
    return number(call.shared_bytes) + " bytes of shared memory, and sm_" + number(options.arch) +
           " has " + number(limit);
  const auto opt_in = opt_ins.find({options.device, call.kernel});
  if (call.shared_bytes > (opt_in == opt_ins.end() ? 48 << 10 : opt_in->second))
    return number(call.shared_bytes) + " bytes of shared memory without opting in on device " +
           number(options.device);
  return "";
}

std::vector<uint64_t> BlockOrder(const Dim3& grid, Schedule schedule) {
  const uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
  if (world.options.last_block_only) return {count - 1};
  std::vector<uint64_t> order(count);
  for (uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  if (schedule == Schedule::kReverse) std::reverse(order.begin(), order.end());
  if (schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), world.random);
  return order;
}

}  // namespace

// When the process exits, before statics are destroyed, the lock is taken and not given back: a
// thread that goes on launching (after process.exit) stops here instead of using what is gone.
// Statics that are made later than these must not be destroyed at all.
std::unique_lock<std::recursive_mutex> LockDevice() {
  static auto& mutex = *new std::recursive_mutex;
  static std::atomic<std::thread::id> exiting;
  [[maybe_unused]] static const int registered = std::atexit([] {
    exiting = std::this_thread::get_id();
    LockDevice().release();
  });
  const std::thread::id last = exiting;
  while (last != std::thread::id() && last != std::this_thread::get_id())
    std::this_thread::sleep_for(std::chrono::hours(1));
  return std::unique_lock(mutex);
}

void MakeReady(int thread) {
  world.threads[static_cast<size_t>(thread)]->state = State::kReady;
  world.ready.push_back(thread);
}

void Wait(const char* call, Loc loc) {
  Thread& t = world.self();
  t.state = State::kWaiting;
  t.waits_in = call;
  t.waits_at = loc;
  Yield();
}

void LeaveLaunch() {
  Fiber::Switch(world.self().fiber, world.main);
  __builtin_unreachable();
}

Arrival ArriveNow(Thread& thread) { return {thread.id, thread.base, thread.own++, thread.landed}; }

void Hear(Clock& clock, uint32_t epoch, const std::shared_ptr<const Times>& of) {
  std::shared_ptr<const Times>& known = clock.blocks[epoch];
  if (known == nullptr) known = of;
  if (known == of) return;
  Times both = *known;
  for (size_t i = 0; i < both.size(); ++i) both[i] = std::max(both[i], (*of)[i]);
  known = std::make_shared<const Times>(std::move(both));
}

ClockRef Join(const std::vector<Arrival>& arrivals) {
  const Clock* last = arrivals[0].base.get();
  auto joined = std::make_shared<Clock>(*last);
  Times& c = joined->times;
  for (const Arrival& a : arrivals) {
    if (a.base.get() == last) continue;
    last = a.base.get();
    for (size_t i = 0; i < c.size(); ++i) c[i] = std::max(c[i], last->times[i]);
    for (const auto& [epoch, times] : last->blocks) Hear(*joined, epoch, times);
  }
  for (const Arrival& a : arrivals) {
    uint32_t& own = c[static_cast<size_t>(a.thread)];
    uint32_t& copies = c[static_cast<size_t>(world.count + a.thread)];
    own = std::max(own, a.own);
    copies = std::max(copies, a.landed);
  }
  return joined;
}

void SetMaxDynamicShared(int device, const void* kernel, size_t bytes) {
  const auto lock = LockDevice();
  opt_ins[{device, kernel}] = bytes;
}

namespace internal {

Result Run(const Options& options, const Call& call) {
  const auto lock = LockDevice();
  if (!world.shared) {
    world.shared = static_cast<unsigned char*>(std::aligned_alloc(4096, kSharedWindow));
    if (!world.shared) throw std::bad_alloc();
  }
  world.os_thread = __builtin_thread_pointer();
  world.call = &call;
  world.result = Result();
  world.fatal = false;
  world.random.seed(options.seed);
  world.count = static_cast<int>(call.block.x);
  if (const std::string refusal = Refusal(options, call); !refusal.empty()) {
    Record(Kind::kLaunch, "the launch of %a is refused: " + refusal,
           reinterpret_cast<Site>(call.kernel) + 1);
    return Finish();
  }
  const bool further = world.programmatic_before && world.options.programmatic;
  world.window_epoch = further ? world.window_epoch : world.launch_epoch;
  world.programmatic_before = options.programmatic;
  world.options = options;
  world.launch_epoch = world.epoch + 1;
  world.counters.clear();
  BeginL1(further);
  world.shared_begin = kSharedBase + options.shared_shift;
  world.shared_end = world.shared_begin + static_cast<uint32_t>(call.shared_bytes);
  for (const uint64_t block : BlockOrder(call.grid, options.blocks)) {
    RunBlock(block);
    if (world.fatal) break;
  }
  ForgetLastStore();
  if (!world.fatal && !options.last_block_only) CheckCounters();
  return Finish();
}

}  // namespace internal
}  // namespace lora::simt
