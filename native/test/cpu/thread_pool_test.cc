// Tests that every task runs exactly once, whatever the number of threads and cores, loop after
// loop.
#include "backend/cpu/runtime/thread_pool.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <string>
#include <vector>

#include "backend/cpu/runtime/context.h"
#include "core/error.h"

namespace lora::cpu {
namespace {

TEST_CASE("every task runs once, on a thread of the pool") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int loop = 0; loop < 300; ++loop) {
      const size_t tasks = static_cast<size_t>(loop % 23);
      std::vector<std::atomic<int>> runs(tasks);
      std::atomic<bool> in_range{true};
      pool.Run(tasks, [&](size_t task, size_t thread) {
        ++runs[task];
        if (thread >= static_cast<size_t>(threads)) in_range = false;
      });
      for (auto& count : runs) REQUIRE(count == 1);
      REQUIRE(in_range);
    }
  }
}

TEST_CASE("two tasks never share a thread at the same time") {
  ThreadPool pool(4);
  std::atomic<int> inside[4] = {};
  std::atomic<bool> shared{false};
  pool.Run(5000, [&](size_t, size_t thread) {
    if (inside[thread].fetch_add(1) != 0) shared = true;
    inside[thread].fetch_sub(1);
  });
  CHECK_FALSE(shared);
}

TEST_CASE("what tasks wrote is seen after the loop") {
  ThreadPool pool(3);
  std::vector<int> values(1000);
  for (int loop = 1; loop <= 50; ++loop) {
    pool.Run(values.size(), [&](size_t task, size_t) { values[task] = loop; });
    for (const int value : values) REQUIRE(value == loop);
  }
}

TEST_CASE("more tasks than a ticket can count") {
  ThreadPool pool(2);
  constexpr size_t kTasks = (size_t{1} << 20) + 12345;
  std::vector<uint8_t> runs(kTasks);
  pool.Run(kTasks, [&](size_t task, size_t) { ++runs[task]; });
  CHECK(std::all_of(runs.begin(), runs.end(), [](uint8_t count) { return count == 1; }));
}

#if !defined(__SANITIZE_ADDRESS__)  // whose own mappings do not bear a limit
TEST_CASE("a pool that the system gives fewer threads does all the tasks") {
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_AS, &before) == 0);
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  // This leaves room for some stacks, but not for 99.
  const rlim_t used = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
  const rlimit tight{used + (rlim_t{48} << 20), before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
  {
    ThreadPool pool(100);
    REQUIRE(setrlimit(RLIMIT_AS, &before) == 0);
    std::vector<std::atomic<int>> runs(1000);
    pool.Run(runs.size(), [&](size_t task, size_t) { ++runs[task]; });
    CHECK(std::all_of(runs.begin(), runs.end(), [](const auto& count) { return count == 1; }));
  }
}
#endif

TEST_CASE("a context rethrows the exception of the lowest task, and goes on working") {
  CpuContext context(3);
  for (int loop = 0; loop < 20; ++loop) {
    try {
      context.ParallelFor(9, [](size_t task, size_t) {
        if (task % 2 == 1) throw Error("ERR_DATA", "test", std::to_string(task));
      });
      FAIL("expected an exception");
    } catch (const Error& error) {
      CHECK(std::string(error.what()) == "1");
    }
  }
}

}  // namespace
}  // namespace lora::cpu
