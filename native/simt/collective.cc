// Emulates indices, barriers and shuffles. Barriers and SyncWarp join the clocks of the threads
// that meet; shuffles do not order memory, as on hardware.
#include "backend/cuda/device/primitives.h"
#include "simt/state.h"

namespace lora::simt {
namespace {

Meeting& WarpOfSelf() { return world.warps[static_cast<size_t>(world.current / 32)]; }

void CheckFullWarp(const char* call, Loc loc) {
  if ((world.current / 32 + 1) * 32 > world.count)
    Fatal(Kind::kDivergence,
          std::string(call) + " at %a needs 32 lanes, and the block's last warp has fewer",
          SiteOf(loc));
}

// Releases all threads that wait, with the joined knowledge of all that came.
void Complete(Barrier& barrier) {
  const ClockRef joined = Join(barrier.arrived);
  for (const int id : barrier.waiting) {
    world.threads[static_cast<size_t>(id)]->base = joined;
    if (id != world.current) MakeReady(id);
  }
  barrier.arrived.clear();
  barrier.waiting.clear();
}

void ArriveAt(Barrier& barrier, int expected, bool wait, const char* call, Loc loc) {
  CheckLastStore();
  if (barrier.arrived.empty()) {
    barrier.expected = expected;
    barrier.loc = loc;
  } else if (barrier.expected != expected) {
    Fatal(Kind::kDivergence,
          std::string(call) + " at %a counts " + std::to_string(expected) +
              " threads, and other threads came to it with " + std::to_string(barrier.expected) +
              " at %b",
          SiteOf(loc), SiteOf(barrier.loc));
  }
  barrier.arrived.push_back(ArriveNow(world.self()));
  if (wait) barrier.waiting.push_back(world.current);
  if (static_cast<int>(barrier.arrived.size()) == barrier.expected) {
    Complete(barrier);
  } else if (wait) {
    Wait(call, loc);
  }
}

}  // namespace

Meeting& Arrive(const char* call, Loc loc, void* arg, bool* last) {
  CheckLastStore();
  CheckFullWarp(call, loc);
  Meeting& meeting = WarpOfSelf();
  if (meeting.arrived &&
      (meeting.call != call || meeting.loc.line != loc.line || meeting.loc.file != loc.file))
    Fatal(Kind::kDivergence,
          std::string(call) + " at %a while other lanes of the warp are in " + meeting.call +
              " at %b",
          SiteOf(loc), SiteOf(meeting.loc));
  meeting.call = call;
  meeting.loc = loc;
  meeting.args[world.current % 32] = arg;
  *last = ++meeting.arrived == 32;
  if (!*last) Wait(call, loc);
  return meeting;
}

void ReleaseWarp() {
  WarpOfSelf().arrived = 0;
  const int first = world.current / 32 * 32;
  for (int id = first; id < first + 32; ++id)
    if (id != world.current) MakeReady(id);
}

}  // namespace lora::simt

namespace lora::device {

using simt::Kind;
using simt::SiteOf;
using simt::world;

int ThreadIndex() { return world.current; }
int BlockThreads() { return world.count; }
int BlockX() { return static_cast<int>(world.block_index.x); }
int BlockY() { return static_cast<int>(world.block_index.y); }
int BlockZ() { return static_cast<int>(world.block_index.z); }
int GridX() { return static_cast<int>(world.call->grid.x); }
int GridY() { return static_cast<int>(world.call->grid.y); }
int GridZ() { return static_cast<int>(world.call->grid.z); }

unsigned char* DynamicShared() { return world.shared + world.shared_begin; }

uint32_t SharedAddress(const void* p, Loc loc) {
  const simt::Inside inside;
  if (!world.InShared(p))
    simt::Fatal(Kind::kHostPointer, "a pointer that is not of shared memory, at %a", SiteOf(loc));
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - world.shared);
}

void SyncThreads(Loc loc) {
  const simt::Inside inside;
  simt::Barrier& barrier = world.barriers[0];
  if (!barrier.arrived.empty() && (barrier.loc.line != loc.line || barrier.loc.file != loc.file))
    simt::Fatal(Kind::kDivergence,
                "SyncThreads at %a while other threads of the block wait in the one at %b",
                SiteOf(loc), SiteOf(barrier.loc));
  simt::ArriveAt(barrier, world.count, true, "SyncThreads", loc);
}

void NamedBarrier(int id, int threads, bool wait, Loc loc) {
  const simt::Inside inside;
  const char* call = wait ? "BarrierSync" : "BarrierArrive";
  if (threads % 32 || threads <= 0 || threads > world.count)
    simt::Fatal(Kind::kDivergence,
                std::string(call) + " at %a counts " + std::to_string(threads) +
                    " threads: not whole warps of this block",
                SiteOf(loc));
  simt::ArriveAt(world.barriers[id], threads, wait, call, loc);
}

void SyncWarp(Loc loc) {
  const simt::Inside inside;
  simt::Collective("SyncWarp", loc, nullptr, [](simt::Meeting&) {
    const int first = world.current / 32 * 32;
    std::vector<simt::Arrival> arrivals;
    for (int id = first; id < first + 32; ++id)
      arrivals.push_back(simt::ArriveNow(*world.threads[static_cast<size_t>(id)]));
    const simt::ClockRef joined = simt::Join(arrivals);
    for (int id = first; id < first + 32; ++id)
      world.threads[static_cast<size_t>(id)]->base = joined;
  });
}

uint32_t ShuffleBits(uint32_t bits, ShuffleKind kind, int operand, Loc loc) {
  const simt::Inside inside;
  struct Arg {
    uint32_t in, out;
    int operand;
  } arg{bits, 0, operand};
  simt::CheckRegister(bits, "the shuffle", SiteOf(loc));
  simt::Collective("a shuffle", loc, &arg, [&](simt::Meeting& meeting) {
    for (int lane = 0; lane < 32; ++lane) {
      Arg& own = *static_cast<Arg*>(meeting.args[lane]);
      int source = own.operand & 31;
      if (kind == ShuffleKind::kXor) source = lane ^ (own.operand & 31);
      // Past the last lane a lane keeps its own value.
      if (kind == ShuffleKind::kDown) source = lane + own.operand < 32 ? lane + own.operand : lane;
      own.out = static_cast<Arg*>(meeting.args[source])->in;
    }
  });
  return arg.out;
}

}  // namespace lora::device
