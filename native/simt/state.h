// Declares what the parts of the emulator share: the launch that runs, its threads, and reports.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "simt/fiber.h"
#include "simt/shadow.h"
#include "simt/simt.h"

namespace lora::simt {

// -ftrivial-auto-var-init=pattern puts this into variables without an initializer.
constexpr uint32_t kUnsetRegister = 0xfefefefe;
constexpr uint32_t kUnsetPair = 0xfefffeff;  // two of them rounded to bf16
// This is twice the largest block, so that the bounds and not the system catch an access just past
// the end.
constexpr size_t kSharedWindow = 512 << 10;
// The system keeps the first KiB of a block on sm_80 and later.
constexpr uint32_t kSharedBase = 1024;

struct Copy {
  void* to;
  const void* from;
  int bytes, source_bytes;
  bool landed;
};
struct CopyGroup {
  uint32_t clock;
  std::vector<Copy> copies;
};

enum class State : uint8_t { kReady, kWaiting, kDone };

struct Thread {
  Fiber fiber;
  int id = 0;
  State state = State::kDone;
  const char* waits_in = "";
  Loc waits_at{"", 0};
  // What others had done when this thread last heard of it, and its own time (happens-before).
  ClockRef base;
  uint32_t own = 0;
  uint32_t issued = 0, landed = 0;  // times of its cp.async groups
  std::vector<Copy> open;           // not committed yet
  std::deque<CopyGroup> groups;
  bool dependency_waited = false;
};

// Threads that meet in one warp-wide call; the last to come does the work for all.
struct Meeting {
  int arrived = 0;
  const char* call = "";
  Loc loc{"", 0};
  void* args[32];
};

// What a thread had done when it came to a barrier; what it does later is not released by it.
struct Arrival {
  int thread;
  ClockRef base;
  uint32_t own, landed;
};
struct Barrier {
  int expected = 0;
  std::vector<Arrival> arrived;
  std::vector<int> waiting;
  Loc loc{"", 0};
};

// Where blocks arrive (LastToArrive), and those that have in this launch, in which it serves once.
struct Counter {
  struct Block {
    uint32_t epoch;
    ClockRef done;
  };
  std::vector<Block> arrived;
  int expected = 0;
  Loc loc{"", 0};
  bool IsComplete() const { return static_cast<int>(arrived.size()) == expected; }
};

struct Finding {
  Kind kind;
  std::string text;  // %a and %b stand for the sites
  Site a, b;
};

struct World {
  Options options;
  const internal::Call* call = nullptr;
  Result result;
  std::vector<Finding> findings;
  std::set<std::tuple<Kind, Site, Site>> seen;

  Fiber main;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<int> ready;
  size_t ready_head = 0;
  int current = -1, count = 0, alive = 0;
  // Set while the emulator itself runs. Instrumented copies of library templates may be linked into
  // it, so hooks ignore accesses while this is set.
  bool inside = true;
  // Identifies the OS thread that runs the launch; hooks ignore instrumented host code of others.
  const void* os_thread = nullptr;
  bool fatal = false;
  std::mt19937_64 random;

  Dim3 block_index;
  unsigned char* shared = nullptr;
  uint32_t shared_begin = 0, shared_end = 0;
  std::vector<Meeting> warps;
  Barrier barriers[16];
  bool acquired = false;  // by a thread of this block, which drops its lines of the L1
  std::map<const uint32_t*, Counter> counters;  // of this launch

  // Every block of every launch is an epoch; shadow cells of older epochs are stale.
  uint32_t epoch = 0;
  uint32_t launch_epoch = 1;  // the first of this launch
  uint32_t window_epoch = 1;  // the first of those launches that this one may overlap
  bool programmatic_before = false;
  uint32_t clock = 1;  // later than any time of earlier blocks

  Thread& self() { return *threads[static_cast<size_t>(current)]; }
  bool InShared(const void* p) const {
    return static_cast<size_t>(static_cast<const unsigned char*>(p) - shared) < kSharedWindow;
  }
};
extern World world;

// Stands at the top of every entry from kernel code.
struct Inside {
  Inside() { world.inside = true; }
  ~Inside() { world.inside = false; }
};

// ---- reports.cc ---------------------------------------------------------------------------------

// Returns true for the first finding of this kind at these sites; only then is a text needed.
bool Fresh(Kind kind, Site a, Site b = 0);
void Record(Kind kind, std::string text, Site a, Site b = 0);
// Records and ends the launch: the kernel cannot go on in a meaningful way.
[[noreturn]] void Fatal(Kind kind, std::string text, Site a, Site b = 0);
std::string Who();                  // "block (1,0,0) thread 7"
std::string Actor(uint32_t actor);  // "thread 7", "cp.async of thread 7"
Result Finish();                    // resolves the sites

// ---- scheduler.cc -------------------------------------------------------------------------------

// Launches hold it, and whatever else touches the device's state, which several OS threads may use.
std::unique_lock<std::recursive_mutex> LockDevice();
void MakeReady(int thread);
void Wait(const char* call, Loc loc);  // until another thread makes this one ready
[[noreturn]] void LeaveLaunch();
// Ends the thread's present time, so that what it does from now on is later than the arrival.
Arrival ArriveNow(Thread& thread);
// Returns the knowledge of all that came, with their own times.
ClockRef Join(const std::vector<Arrival>& arrivals);
// Adds what another block had done.
void Hear(Clock& clock, uint32_t epoch, const std::shared_ptr<const Times>& of);

// ---- collective.cc ------------------------------------------------------------------------------

// Lets all 32 lanes meet. `work` runs once, then every lane goes on.
template <class Work>
void Collective(const char* call, Loc loc, void* arg, Work work);
Meeting& Arrive(const char* call, Loc loc, void* arg, bool* last);
void ReleaseWarp();
template <class Work>
void Collective(const char* call, Loc loc, void* arg, Work work) {
  bool last = false;
  Meeting& meeting = Arrive(call, loc, arg, &last);
  if (!last) return;
  work(meeting);
  ReleaseWarp();
}

// ---- counters.cc --------------------------------------------------------------------------------

// Reports the counters that a launch does not leave at 0.
void CheckCounters();

// ---- memory.cc ----------------------------------------------------------------------------------

bool InDevice(const void* p);
// These check bounds, alignment, initialization and order of one access. What a load must give that
// is not what memory holds is put there until the next event, unless it is asynchronous: such
// copies are of the L2.
void CheckGlobal(const void* p, int bytes, Access access, Site site, bool async = false);
void CheckShared(const void* p, int bytes, Access access, Site site, bool async = false);
// Copies bytes of global memory, checked as a load and a store. Those that nothing wrote are
// unwritten in the copy too.
void CopyGlobal(void* to, const void* from, int bytes, Site site);
// Reports a register that holds the pattern of variables that were never set.
void RecordUnset(const char* what, Site site);
inline void CheckRegister(uint32_t bits, const char* what, Site site) {
  if (bits == kUnsetRegister || bits == kUnsetPair) RecordUnset(what, site);
}
// Looks at the value of the store that the last hook announced, which has happened by now, and
// ends an old load.
void CheckLastStore();
void ForgetLastStore();  // of a launch that was ended

// ---- l1.cc --------------------------------------------------------------------------------------

// What a load may give of a cell: what it holds, or what it held when the launch began, or the
// first of those that the launch may overlap.
enum class Age : uint8_t { kFresh, kBeforeLaunch, kBeforeWindow };
Age AgeOf(const Cell& cell, Access access);
// Begins a launch; `further` says that it may overlap more than the one before.
void BeginL1(bool further);
void KeepBeforeWrite(const void* p, size_t bytes);
// Puts old bytes where they are loaded now, by the age of each, until EndOldLoad.
constexpr size_t kMostOld = 16;
void BeginOldLoad(const void* p, size_t bytes, const Age* ages);
void EndOldLoad();

// ---- async.cc -----------------------------------------------------------------------------------

void CheckCopiesAtExit();

}  // namespace lora::simt
