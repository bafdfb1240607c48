// Checks global and shared memory: bounds, alignment, initialization, and
// the shadow cells of every access.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "simt/banks.h"
#include "simt/state.h"

namespace lora::simt {
namespace {

constexpr size_t kArena = size_t{1} << 40;  // addresses, not memory
constexpr size_t kGap = 1 << 20;            // an index that strays lands in no neighbor
constexpr size_t kPage = 4096;

enum : uint8_t { kPadding, kAllocated, kInitialized };

struct Release {
  size_t mapped = 0;
  void operator()(void* p) const {
    if (mapped > 0) {
      munmap(p, mapped);
    } else {
      std::free(p);
    }
  }
};
template <class T>
using Zeros = std::unique_ptr<T[], Release>;  // zero pages until touched
// Sparse ones are not counted by the system, so that they may be more than there is memory.
template <class T>
Zeros<T> MakeZeros(size_t count, bool sparse) {
  if (!sparse) {
    void* data = std::calloc(count, sizeof(T));
    if (!data) throw std::bad_alloc();
    return {static_cast<T*>(data), {}};
  }
  const size_t bytes = count * sizeof(T);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<T*>(data), {bytes}};
}
struct Allocation {
  uintptr_t begin;
  size_t bytes;
  std::string name;
  bool sparse;  // has no padding, and zeros where nothing was written
  Zeros<uint8_t> bytes_state;
  Zeros<Cell> cells;
  bool freed = false;
};
uintptr_t arena = 0, arena_next = 0;
std::map<uintptr_t, Allocation> allocations;
Allocation* last_found = nullptr;
std::vector<Cell> shared_cells;

// A store that a hook has announced. It is looked at when the next event shows that it has
// happened.
struct Store {
  const unsigned char* address = nullptr;
  int bytes = 0;
  Site site = 0;
} last_store;

Allocation* Find(uintptr_t p) {
  if (last_found && p - last_found->begin < last_found->bytes) return last_found;
  auto next = allocations.upper_bound(p);
  if (next == allocations.begin()) return nullptr;
  Allocation& a = std::prev(next)->second;
  if (p - a.begin >= a.bytes) return nullptr;
  return last_found = &a;
}

std::string Near(uintptr_t p) {
  auto next = allocations.upper_bound(p);
  if (next != allocations.begin()) {
    const Allocation& a = std::prev(next)->second;
    const size_t past = p - a.begin - a.bytes;
    if (next == allocations.end() || past < next->second.begin - p)
      return std::to_string(past) + " bytes past the end of '" + a.name + "' (" +
             std::to_string(a.bytes) + " bytes)";
  }
  if (next == allocations.end()) return "no buffer is near";
  return std::to_string(next->second.begin - p) + " bytes before '" + next->second.name + "'";
}

ActorView View(bool async) {
  const Thread& t = world.self();
  const uint32_t id = static_cast<uint32_t>(t.id), copies = static_cast<uint32_t>(world.count) + id;
  return {t.base.get(),
          id,
          copies,
          t.own,
          t.landed,
          static_cast<uint16_t>(async ? copies : id),
          async ? t.issued : t.own};
}

void CheckAlignment(uintptr_t offset, int bytes, Access access, Site site) {
  if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && offset % static_cast<uintptr_t>(bytes))
    Fatal(Kind::kMisaligned,
          std::string(Verb(access)) + " of " + std::to_string(bytes) +
              " bytes at an address that is no multiple of it, at %a",
          site);
}

Allocation& Owner(const void* p, const char* what) {
  const auto it = allocations.find(reinterpret_cast<uintptr_t>(p));
  if (it == allocations.end()) throw std::runtime_error(std::string(what) + ": no such buffer");
  return it->second;
}

}  // namespace

bool InDevice(const void* p) { return arena && reinterpret_cast<uintptr_t>(p) - arena < kArena; }

void CheckGlobal(const void* p, int bytes, Access access, Site site, bool async) {
  ++world.result.accesses;
  EndOldLoad();
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  const size_t n = static_cast<size_t>(bytes);
  const bool write = access == Access::kWrite;
  const auto subject = [&] {
    return "global " + std::string(Verb(access)) + " of " + std::to_string(bytes) + " bytes";
  };
  if (!InDevice(p))
    Fatal(Kind::kHostPointer, subject() + " through a pointer that is not of device memory, at %a",
          site);
  Allocation* a = Find(address);
  if (!a || address + n > a->begin + a->bytes)
    Fatal(Kind::kGlobalBounds, subject() + " at %a: " + Near(a ? a->begin + a->bytes : address),
          site);
  if (a->freed)
    Fatal(Kind::kUseAfterFree, subject() + " at %a, and '" + a->name + "' was freed", site);
  if (!async) CheckAlignment(address, bytes, access, site);
  const size_t offset = address - a->begin;
  uint8_t* state = &a->bytes_state[offset];
  for (size_t i = 0; i < n; ++i) {
    if (state[i] == kPadding && !a->sparse)
      Fatal(Kind::kGlobalBounds,
            subject() + " at %a: byte " + std::to_string(offset + i) + " of '" + a->name +
                "' is padding between rows",
            site);
    if (write) {
      state[i] = kInitialized;
    } else if (state[i] == kAllocated && access != Access::kReadOfBits) {
      if (Fresh(Kind::kUninitGlobal, site))
        Record(Kind::kUninitGlobal,
               Who() + ": " + subject() + " at %a: byte " + std::to_string(offset + i) + " of '" +
                   a->name + "' was never written",
               site);
      break;
    }
  }
  if ((write || access == Access::kArrive) && world.options.programmatic &&
      !world.self().dependency_waited && Fresh(Kind::kBeforeWait, site))
    Record(Kind::kBeforeWait,
           Who() + ": " + subject() +
               " at %a comes before griddepcontrol.wait; the launch before may "
               "still use that memory",
           site);
  if (write) KeepBeforeWrite(p, n);
  const ActorView actor = View(async);
  const SiteId id = IdOf(site);
  bool old = false;
  for (size_t g = offset / kGranule; g <= (offset + n - 1) / kGranule; ++g) {
    old |= AgeOf(a->cells[g], access) != Age::kFresh;
    Touch(a->cells[g], actor, access, id, {a->name.c_str(), g * kGranule, true});
  }
  // A struct is read after further events.
  if (!old || async || n > kMostOld) return;
  Age ages[kMostOld];
  for (size_t i = 0; i < n; ++i) ages[i] = AgeOf(a->cells[(offset + i) / kGranule], access);
  BeginOldLoad(p, n, ages);
}

void CopyGlobal(void* to, const void* from, int bytes, Site site) {
  const auto states = [](const void* p) {
    Allocation& a = *Find(reinterpret_cast<uintptr_t>(p));
    return &a.bytes_state[reinterpret_cast<uintptr_t>(p) - a.begin];
  };
  const size_t n = static_cast<size_t>(bytes);
  CheckGlobal(to, bytes, Access::kWrite, site);
  CheckGlobal(from, bytes, Access::kReadOfBits, site);
  std::memcpy(to, from, n);
  EndOldLoad();
  std::memcpy(states(to), states(from), n);
}

void CheckShared(const void* p, int bytes, Access access, Site site, bool async) {
  ++world.result.accesses;
  if (shared_cells.empty()) shared_cells.resize(kSharedWindow / kGranule);
  const uint32_t offset =
      static_cast<uint32_t>(static_cast<const unsigned char*>(p) - world.shared);
  if (offset < world.shared_begin || offset + static_cast<uint32_t>(bytes) > world.shared_end)
    Fatal(Kind::kSharedBounds,
          std::string(Verb(access)) + " of " + std::to_string(bytes) + " bytes at %a: offset " +
              std::to_string(static_cast<int64_t>(offset) - world.shared_begin) +
              " of shared memory, and the block has " +
              std::to_string(world.shared_end - world.shared_begin) + " bytes",
          site);
  CheckAlignment(offset, bytes, access, site);
  const ActorView actor = View(async);
  const SiteId id = IdOf(site);
  for (uint32_t g = offset / kGranule; g <= (offset + static_cast<uint32_t>(bytes) - 1) / kGranule;
       ++g) {
    Cell& cell = shared_cells[g];
    if (access != Access::kWrite && cell.write_epoch != world.epoch) {
      if (Fresh(Kind::kUninitShared, site))
        Record(Kind::kUninitShared,
               Who() + ": read of shared memory at %a, offset " +
                   std::to_string(g * kGranule - world.shared_begin) +
                   ", that this block never wrote",
               site);
    }
    Touch(cell, actor, access, id, {"shared memory", g * kGranule - world.shared_begin, false});
  }
}

void RecordUnset(const char* what, Site site) {
  if (!Fresh(Kind::kUninitRegister, site)) return;
  Record(Kind::kUninitRegister, Who() + ": " + what + " at %a holds a register that was never set",
         site);
}

void CheckLastStore() {
  EndOldLoad();
  if (!last_store.address) return;
  const Store store = last_store;
  last_store.address = nullptr;
  if (store.bytes == 2) {
    uint16_t bits;
    std::memcpy(&bits, store.address, 2);
    // It is the pattern itself, or what that rounds to as a bf16.
    if (bits == 0xfefe || bits == 0xfeff) CheckRegister(kUnsetRegister, "the store", store.site);
  }
  for (int i = 0; i + 4 <= store.bytes; i += 4) {
    uint32_t bits;
    std::memcpy(&bits, store.address + i, 4);
    CheckRegister(bits, "the store", store.site);
  }
}

void ForgetLastStore() {
  EndOldLoad();
  last_store.address = nullptr;
}

// The compiler's instrumentation calls it before every load and store of kernel code.
void OnAccess(const void* p, int bytes, bool write, const void* return_address) {
  if (world.inside || __builtin_thread_pointer() != world.os_thread) return;
  const Inside inside;
  CheckLastStore();
  if (world.self().fiber.OnStack(p)) return;
  const Site site = SiteOf(return_address);
  const Access access = write ? Access::kWrite : Access::kRead;
  const auto* byte = static_cast<const unsigned char*>(p);
  if (world.InShared(p)) {
    CheckShared(p, bytes, access, site);
    CountBanks(p, bytes, site);
  } else if (InDevice(p)) {
    CheckGlobal(p, bytes, access, site);
  } else {
    const bool argument =
        static_cast<size_t>(byte - static_cast<const unsigned char*>(world.call->context)) <
        world.call->context_bytes;
    if (!write && (argument || InModule(p))) return;
    Fatal(Kind::kHostPointer, std::string(Verb(access)) + " of host memory at %a", site);
  }
  // Whole structs are announced before they are read, so at the next event
  // their store has not happened yet.
  if (write && bytes <= 16) last_store = {byte, bytes, site};
}

namespace {

Allocation& Reserve(size_t bytes, size_t skew, const std::string& name, bool sparse) {
  if (!arena) {
    void* map =
        mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    arena = reinterpret_cast<uintptr_t>(map);
    arena_next = arena + kGap;
  }
  Allocation a{arena_next + skew,
               bytes,
               name,
               sparse,
               MakeZeros<uint8_t>(bytes + 1, sparse),
               MakeZeros<Cell>(bytes / kGranule + 1, sparse)};
  void* const first_page = reinterpret_cast<void*>(arena_next);
  const size_t pages = ((skew + a.bytes) / kPage + 1) * kPage;
  arena_next += pages + kGap;
  if (arena_next > arena + kArena || mprotect(first_page, pages, PROT_READ | PROT_WRITE) != 0)
    throw std::bad_alloc();
  return allocations.emplace(a.begin, std::move(a)).first->second;
}

}  // namespace

void* DeviceAlloc(size_t rows, size_t row_bytes, size_t pitch, const std::string& name,
                  size_t skew) {
  const auto lock = LockDevice();
  Allocation& a = Reserve(rows ? (rows - 1) * pitch + row_bytes : 0, skew, name, false);
  void* data = reinterpret_cast<void*>(a.begin);
  std::memset(data, 0xff, a.bytes);
  for (size_t r = 0; r < rows; ++r) std::memset(&a.bytes_state[r * pitch], kAllocated, row_bytes);
  return data;
}

void* DeviceAllocSparse(size_t bytes, const std::string& name) {
  const auto lock = LockDevice();
  return reinterpret_cast<void*>(Reserve(bytes, 0, name, true).begin);
}

void DeviceFree(void* p) {
  const auto lock = LockDevice();
  Allocation& a = Owner(p, "DeviceFree");
  const size_t skew = a.begin % kPage, pages = ((skew + a.bytes) / kPage + 1) * kPage;
  void* const first_page = static_cast<char*>(p) - skew;
  madvise(first_page, pages, MADV_DONTNEED);
  mprotect(first_page, pages, PROT_NONE);
  a.freed = true;
  a.bytes_state.reset();
  a.cells.reset();
}

void DeviceWrite(void* to, const void* from, size_t bytes) {
  const auto lock = LockDevice();
  if (bytes == 0) return;
  Allocation* a = Find(reinterpret_cast<uintptr_t>(to));
  const size_t offset = a ? reinterpret_cast<uintptr_t>(to) - a->begin : 0;
  if (!a || a->freed || offset + bytes > a->bytes)
    throw std::runtime_error("DeviceWrite: outside every buffer");
  std::memcpy(to, from, bytes);
  std::memset(&a->bytes_state[offset], kInitialized, bytes);
}

void DeviceRead(void* to, const void* from, size_t bytes) {
  const auto lock = LockDevice();
  if (bytes == 0) return;
  const Allocation* a = Find(reinterpret_cast<uintptr_t>(from));
  if (!a || a->freed || reinterpret_cast<uintptr_t>(from) - a->begin + bytes > a->bytes)
    throw std::runtime_error("DeviceRead: outside every buffer");
  std::memcpy(to, from, bytes);
}

size_t DeviceUnwritten(const void* p) {
  const auto lock = LockDevice();
  const Allocation& a = Owner(p, "DeviceUnwritten");
  return static_cast<size_t>(
      std::count(a.bytes_state.get(), a.bytes_state.get() + a.bytes, uint8_t{kAllocated}));
}

}  // namespace lora::simt
