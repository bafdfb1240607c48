// Emulates cp.async, vector loads and stores, and griddepcontrol. Every thread has an asynchronous
// agent of its own, whose writes are ordered only by waiting for them.
#include <cstring>

#include "backend/cuda/device/primitives.h"
#include "simt/banks.h"
#include "simt/state.h"

namespace lora::simt {
namespace {

void Land(Copy& copy) {
  if (copy.landed) return;
  copy.landed = true;
  std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.source_bytes));
  std::memset(static_cast<char*>(copy.to) + copy.source_bytes, 0,
              static_cast<size_t>(copy.bytes - copy.source_bytes));
}

}  // namespace

void CheckCopiesAtExit() {
  const Thread& t = world.self();
  bool pending = !t.open.empty();
  // Loops that commit once per turn end with empty groups, for which nothing waits.
  for (const CopyGroup& group : t.groups) pending |= !group.copies.empty();
  const Site kernel = reinterpret_cast<Site>(world.call->kernel) + 1;
  if (pending && Fresh(Kind::kAsync, kernel))
    Record(Kind::kAsync, Who() + " leaves %a with copies that nothing waited for", kernel);
}

}  // namespace lora::simt

namespace lora::device {

using simt::Access;
using simt::Kind;
using simt::Site;
using simt::SiteOf;
using simt::world;

void CopyAsyncBytes(void* shared, const void* global, int bytes, int source_bytes, Loc loc) {
  const simt::Inside inside;
  simt::CheckLastStore();
  const Site site = SiteOf(loc);
  if (!world.InShared(shared))
    simt::Fatal(Kind::kHostPointer, "CopyAsync at %a to memory that is not shared", site);
  const auto unaligned = [&](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) != 0;
  };
  if (unaligned(shared) || unaligned(global))
    simt::Fatal(Kind::kMisaligned,
                "CopyAsync of " + std::to_string(bytes) + " bytes at %a " +
                    (unaligned(global) ? "from" : "to") + " an address that is no multiple of it",
                site);
  if (source_bytes < 0 || source_bytes > bytes)
    simt::Fatal(Kind::kGlobalBounds,
                "CopyAsync of " + std::to_string(bytes) + " bytes at %a with " +
                    std::to_string(source_bytes) + " bytes of source",
                site);
  if (source_bytes) simt::CheckGlobal(global, source_bytes, Access::kRead, site, true);
  simt::CheckShared(shared, bytes, Access::kWrite, site, true);
  simt::Copy copy{shared, global, bytes, source_bytes, false};
  const simt::Async when = world.options.async;
  if (when == simt::Async::kEager || (when == simt::Async::kRandom && world.random() % 2))
    simt::Land(copy);
  world.self().open.push_back(copy);
}

void CopyAsyncCommit() {
  const simt::Inside inside;
  simt::Thread& t = world.self();
  t.groups.push_back({t.issued, std::move(t.open)});
  t.open.clear();
  ++t.issued;
}

void CopyAsyncWaitGroups(int pending) {
  const simt::Inside inside;
  simt::CheckLastStore();
  simt::Thread& t = world.self();
  while (static_cast<int>(t.groups.size()) > pending) {
    for (simt::Copy& copy : t.groups.front().copies) simt::Land(copy);
    t.landed = t.groups.front().clock;
    t.groups.pop_front();
  }
}

namespace {

template <class Vector>
Vector Load(const void* p, Access access, bool shared, Loc loc) {
  const simt::Inside inside;
  simt::CheckLastStore();
  const Site site = SiteOf(loc);
  if (world.InShared(p) != shared)
    simt::Fatal(
        Kind::kHostPointer,
        shared ? "a shared load at %a from other memory" : "a global load at %a from other memory",
        site);
  if (shared) {
    simt::CheckShared(p, sizeof(Vector), access, site);
    simt::CountBanks(p, sizeof(Vector), site);
  } else {
    simt::CheckGlobal(p, sizeof(Vector), access, site);
  }
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

void Store(void* p, const Vec16& v, bool shared, Loc loc) {
  const simt::Inside inside;
  simt::CheckLastStore();
  const Site site = SiteOf(loc);
  if (world.InShared(p) != shared)
    simt::Fatal(
        Kind::kHostPointer,
        shared ? "a shared store at %a to other memory" : "a global store at %a to other memory",
        site);
  if (shared) {
    simt::CheckShared(p, 16, Access::kWrite, site);
    simt::CountBanks(p, 16, site);
  } else {
    simt::CheckGlobal(p, 16, Access::kWrite, site);
  }
  for (const uint32_t word : v.words) simt::CheckRegister(word, "the store", site);
  std::memcpy(p, &v, sizeof v);
}

}  // namespace

Vec16 LoadGlobal16(const void* p, Loc loc) { return Load<Vec16>(p, Access::kRead, false, loc); }
Vec16 LoadGlobalStream16(const void* p, Loc loc) {
  return Load<Vec16>(p, Access::kNonCoherentRead, false, loc);
}
Vec8 LoadGlobal8(const void* p, Loc loc) { return Load<Vec8>(p, Access::kRead, false, loc); }
Vec8 LoadGlobalStream8(const void* p, Loc loc) {
  return Load<Vec8>(p, Access::kNonCoherentRead, false, loc);
}
void StoreGlobal16(void* p, const Vec16& v, Loc loc) { Store(p, v, false, loc); }
void CopyGlobalBytes(void* to, const void* from, int bytes, Loc loc) {
  const simt::Inside inside;
  simt::CheckLastStore();
  simt::CopyGlobal(to, from, bytes, SiteOf(loc));
}
Vec16 LoadShared16(const void* p, Loc loc) { return Load<Vec16>(p, Access::kRead, true, loc); }
void StoreShared16(void* p, const Vec16& v, Loc loc) { Store(p, v, true, loc); }

void GridDependencyWait() { world.self().dependency_waited = true; }
void GridLaunchDependents() {}

}  // namespace lora::device
