#include "core/runtime/allocator.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "core/runtime/platform/platform.h"

namespace lora {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// Writes a fake /proc and /sys/fs/cgroup.
class FakeSystem {
 public:
  FakeSystem() {
    char name[] = "/tmp/lora-system-XXXXXX";
    root_ = mkdtemp(name);
    Write("proc/meminfo", "MemTotal:  8192 kB\nMemFree: 1 kB\nMemAvailable:  4096 kB\n");
  }
  ~FakeSystem() { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  SystemFiles files() const { return {root_ / "proc", root_ / "cgroup"}; }

 private:
  std::filesystem::path root_;
};

}  // namespace

TEST_CASE("the memory of the host says what bounds it") {
  MemoryBudget budget(64 * kMiB), unbounded{std::nullopt};
  CHECK(HostMemory(budget).limit() == "LORA_MEMORY_LIMIT = 64 MiB");
  CHECK(HostMemory(unbounded).limit().empty());
}

TEST_CASE("sizes are rounded to eight classes per power of two") {
  CHECK(Allocator::RoundUp(0) == 64);
  CHECK(Allocator::RoundUp(1) == 64);
  CHECK(Allocator::RoundUp(64) == 64);
  CHECK(Allocator::RoundUp(65) == 128);
  CHECK(Allocator::RoundUp(1024) == 1024);
  CHECK(Allocator::RoundUp(1025) == 1152);
  CHECK(Allocator::RoundUp(8 * kMiB) == 8 * kMiB);
  CHECK(Allocator::RoundUp(8 * kMiB + 1) == 9 * kMiB);
  for (size_t bytes = 1; bytes < (size_t{1} << 40); bytes = bytes * 5 / 3 + 1) {
    const size_t rounded = Allocator::RoundUp(bytes);
    CHECK(rounded >= bytes);
    CHECK(rounded % 64 == 0);
    if (bytes >= 512) CHECK(rounded <= bytes + bytes / 8 + 64);
    CHECK(Allocator::RoundUp(rounded) == rounded);
  }
}

TEST_CASE("blocks are aligned, writable to the last byte, and reused") {
  MemoryBudget budget(64 * kMiB);
  HostMemory memory(budget);
  {
    Allocator allocator(memory);
    for (const size_t bytes : {size_t{1}, size_t{100}, 300 * size_t{1024}, 3 * kMiB}) {
      const Block block = allocator.Allocate(bytes);
      REQUIRE(block.data != nullptr);
      CHECK(block.fresh);
      CHECK(reinterpret_cast<uintptr_t>(block.data) % 64 == 0);
      std::memset(block.data, 1, block.bytes);
      allocator.Free(block);
      const Block again = allocator.Allocate(bytes);
      CHECK(again.data == block.data);
      CHECK_FALSE(again.fresh);
      allocator.Free(again);
    }
    CHECK(allocator.in_use() == 0);
    CHECK(allocator.cached() == budget.used());
    CHECK(budget.used() > 3 * kMiB);
  }
  CHECK(budget.used() == 0);
}

TEST_CASE("huge pages begin at a multiple of their size, and can be written to the last byte") {
  for (const size_t bytes : {size_t{2} << 20, (size_t{3} << 20) + 5, size_t{9} << 20}) {
    void* other =
        platform::MapPages(4096);  // so that mappings do not begin at such a multiple anyway
    void* data = platform::MapHugePages(bytes);
    REQUIRE(data != nullptr);
    CHECK(reinterpret_cast<uintptr_t>(data) % (size_t{2} << 20) == 0);
    std::memset(data, 1, bytes);
    platform::UnmapPages(data, bytes);
    platform::UnmapPages(other, 4096);
  }
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_CASE("blocks share huge pages, do not overlap, and leave no page behind") {
  if (!platform::kAdvisesHugePages) return;
  constexpr uintptr_t kHugePage = 2 * kMiB;
  HugeSlabs slabs;
  struct Taken {
    unsigned char* data;
    size_t bytes;
    unsigned char mark;
  };
  std::vector<Taken> taken;
  std::mt19937 random(7);
  const auto give = [&](size_t i) {
    const Taken block = taken[i];
    size_t wrong = 0;
    for (size_t at = 0; at < block.bytes; ++at) wrong += block.data[at] != block.mark;
    CHECK(wrong == 0);
    CHECK(slabs.Give(block.data, block.bytes));
    taken.erase(taken.begin() + static_cast<ptrdiff_t>(i));
  };
  for (int turn = 0; turn < 400; ++turn) {
    if (taken.size() > 60 || (!taken.empty() && random() % 3 == 0)) {
      give(random() % taken.size());
      continue;
    }
    const size_t bytes = HugeSlabs::kFrom + random() % (HugeSlabs::kBelow - HugeSlabs::kFrom);
    const size_t rounded = Allocator::RoundUp(bytes);
    auto* const data = static_cast<unsigned char*>(slabs.Take(rounded));
    REQUIRE(data != nullptr);
    CHECK(reinterpret_cast<uintptr_t>(data) % 64 == 0);
    const auto mark = static_cast<unsigned char>(turn);
    std::memset(data, mark, rounded);
    taken.push_back({data, rounded, mark});
  }
  CHECK(slabs.count() > 1);
  static char below;  // in the program, of lower addresses than mappings
  for (void* const other : {static_cast<void*>(&slabs), static_cast<void*>(&below)}) {
    CHECK_FALSE(slabs.Give(other, 64 * 1024));
    CHECK_FALSE(HugeSlabs().Give(other, 64 * 1024));
  }
  while (!taken.empty()) give(random() % taken.size());
  CHECK(slabs.count() == 0);

  // Those of one slab lie side by side, from the beginning of a huge page on, and again once they
  // are given back in any order.
  for (const bool ascending : {true, false}) {
    void* const first = slabs.Take(100 * 1024);
    void* const second = slabs.Take(100 * 1024);
    CHECK(reinterpret_cast<uintptr_t>(first) % kHugePage == 0);
    CHECK(static_cast<char*>(second) == static_cast<char*>(first) + 100 * 1024);
    // The pages of a block that is given back are gone, and its neighbor's are not.
    auto* const data = static_cast<unsigned char*>(first);
    std::memset(data, 1, 200 * 1024);
    CHECK(slabs.Give(ascending ? first : second, 100 * 1024));
    CHECK(data[ascending ? 0 : 150 * 1024] == 0);
    CHECK(data[ascending ? 150 * 1024 : 0] == 1);
    if (ascending) {
      // The room that it leaves is for no more than it had.
      void* const larger = slabs.Take(100 * 1024 + 64);
      CHECK(static_cast<char*>(larger) == static_cast<char*>(second) + 100 * 1024);
      CHECK(slabs.Give(larger, 100 * 1024 + 64));
    }
    CHECK(slabs.Give(ascending ? second : first, 100 * 1024));
    CHECK(slabs.count() == 0);
  }
}
#endif

TEST_CASE("a slightly larger block serves, a much larger one does not") {
  MemoryBudget budget(64 * kMiB);
  HostMemory memory(budget);
  Allocator allocator(memory);
  const Block block = allocator.Allocate(1200);
  allocator.Free(block);
  const Block small = allocator.Allocate(100), similar = allocator.Allocate(1100);
  CHECK(small.data != block.data);
  CHECK(similar.data == block.data);
  allocator.Free(small);
  allocator.Free(similar);
}

TEST_CASE("the budget refuses, and trimming makes room") {
  MemoryBudget budget(16 * kMiB);
  HostMemory memory(budget);
  Allocator allocator(memory);
  const Block a = allocator.Allocate(10 * kMiB);
  REQUIRE(a.data != nullptr);
  CHECK(allocator.Allocate(8 * kMiB).data == nullptr);
  CHECK(allocator.in_use() == 10 * kMiB);
  CHECK(memory.free() == 6 * kMiB);
  allocator.Free(a);
  const Block b = allocator.Allocate(8 * kMiB);
  CHECK(b.data == a.data);  // 10 is at most 8 and a quarter
  CHECK(allocator.Allocate(14 * kMiB).data == nullptr);
  allocator.Free(b);
}

TEST_CASE("an absurd request is refused, not overflowed") {
  MemoryBudget limited(16 * kMiB), unlimited(std::nullopt);
  for (MemoryBudget* budget : {&limited, &unlimited}) {
    HostMemory memory(*budget);
    Allocator allocator(memory);
    CHECK(allocator.Allocate(SIZE_MAX).data == nullptr);
    CHECK(allocator.Allocate(SIZE_MAX / 2).data == nullptr);
    CHECK(allocator.Allocate(size_t{1} << 50).data == nullptr);
    CHECK(allocator.in_use() == 0);
    CHECK(budget->used() == 0);
  }
}

TEST_CASE("what the system refuses is given back to the budget") {
  MemoryBudget budget(size_t{1} << 60);  // which grants more than there are addresses
  HostMemory memory(budget);
  Allocator allocator(memory);
  CHECK(allocator.Allocate(size_t{1} << 58).data == nullptr);
  CHECK(allocator.in_use() == 0);
  CHECK(budget.used() == 0);
}

TEST_CASE("trim takes the largest blocks first") {
  MemoryBudget budget(64 * kMiB);
  HostMemory memory(budget);
  Allocator allocator(memory);
  const Block small = allocator.Allocate(kMiB), large = allocator.Allocate(8 * kMiB);
  allocator.Free(small);
  allocator.Free(large);
  const std::vector<Block> trimmed = allocator.Trim(2 * kMiB);
  REQUIRE(trimmed.size() == 1);
  CHECK(trimmed[0].data == large.data);
  CHECK(allocator.cached() == kMiB);
  memory.Unmap(trimmed[0].data, trimmed[0].bytes);
  CHECK(budget.used() == kMiB);
}

TEST_CASE("memory_limit: sizes are told so that need and what is free are not the same number") {
  CHECK(MiBText(32 * kMiB, Rounding::kUp) == "32 MiB");
  CHECK(MiBText(kMiB + kMiB / 4, Rounding::kDown) == "1.25 MiB");
  CHECK(MiBText(163840, Rounding::kUp) == "0.16 MiB");
  CHECK(MiBText(163840, Rounding::kDown) == "0.15 MiB");
  CHECK(MiBText(size_t{1} << 52, Rounding::kUp) == "4294967296 MiB");
}

TEST_CASE("sizes in words") {
  CHECK(ParseBytes("1073741824") == size_t{1} << 30);
  CHECK(ParseBytes("512MiB") == 512 * kMiB);
  CHECK(ParseBytes("2GiB") == 2048 * kMiB);
  CHECK(ParseBytes("1.5 GiB") == 1536 * kMiB);
  CHECK(ParseBytes("64K") == 64 * 1024);
  CHECK(ParseBytes("2gb") == 2000000000);
  CHECK(ParseBytes("0") == 0);
  for (const char* bad : {"", "lots", "-1", "+1", "5 parsecs", "1GiBs", "nan", "inf", "1e300",
                          "1e3", "MiB", "0x10MiB", "0X10", "1.2.3", ".", " 1MiB"})
    CHECK_MESSAGE(!ParseBytes(bad), bad);
}

TEST_CASE("available memory is the least of MemAvailable and every cgroup level") {
  FakeSystem system;
  CHECK(AvailableMemory(system.files()) == 4096 * 1024);
  CHECK(TotalMemory(system.files()) == 8192 * 1024);

  SUBCASE("version 2, the limit on the parent") {
    system.Write("proc/self/cgroup", "0::/a/b\n");
    system.Write("cgroup/a/b/memory.max", "max\n");
    system.Write("cgroup/a/b/memory.current", "1000\n");
    system.Write("cgroup/a/memory.max", "1000000\n");
    system.Write("cgroup/a/memory.current", "300000\n");
    system.Write("cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n");
    CHECK(AvailableMemory(system.files()) == 800000);
    CHECK(TotalMemory(system.files()) == 1000000);
  }
  SUBCASE("version 2 inside a container, whose path is not below the mount") {
    system.Write("proc/self/cgroup", "0::/\n");
    system.Write("cgroup/memory.max", "500000\n");
    system.Write("cgroup/memory.current", "600000\n");
    CHECK(AvailableMemory(system.files()) == 0);
  }
  SUBCASE("version 1") {
    system.Write("proc/self/cgroup", "4:cpu,cpuacct:/c\n3:memory:/m\n");
    system.Write("cgroup/memory/m/memory.limit_in_bytes", "2000000\n");
    system.Write("cgroup/memory/m/memory.usage_in_bytes", "500000\n");
    system.Write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    CHECK(AvailableMemory(system.files()) == 1500000);
  }
}

TEST_CASE("without a limit, what is kept of the system's answer is no more than is free") {
  FakeSystem system;  // with 4 MiB
  MemoryBudget budget(std::nullopt, system.files());
  CHECK(budget.free() == 4 * kMiB - 4 * kMiB / 16);
  CHECK(budget.TryReserve(kMiB));
  CHECK_FALSE(budget.TryReserve(4 * kMiB));
  CHECK(budget.used() == kMiB);
  // What was granted is taken from without another question.
  system.Write("proc/meminfo", "MemAvailable:  0 kB\n");
  CHECK(budget.TryReserve(2 * kMiB));
  CHECK_FALSE(budget.TryReserve(kMiB));
}

TEST_CASE("CPUs are those of the affinity mask, cut to the quota") {
  FakeSystem system;
  const int all = CpuCount(system.files());
  CHECK(all >= 1);
  system.Write("proc/self/cgroup", "0::/a\n");
  system.Write("cgroup/a/cpu.max", "50000 100000\n");
  CHECK(CpuCount(system.files()) == 1);
  system.Write("cgroup/a/cpu.max", "max 100000\n");
  CHECK(CpuCount(system.files()) == all);
  // A part of a CPU is a thread too.
  system.Write("cgroup/a/cpu.max", "150000 100000\n");
  CHECK(CpuCount(system.files()) == std::min(all, 2));
  system.Write("proc/self/cgroup", "4:cpu,cpuacct:/c\n");
  system.Write("cgroup/cpu/c/cpu.cfs_quota_us", "110000\n");
  system.Write("cgroup/cpu/c/cpu.cfs_period_us", "100000\n");
  CHECK(CpuCount(system.files()) == std::min(all, 2));
}

}  // namespace lora
