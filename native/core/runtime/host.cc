#include "core/runtime/host.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

#include "core/runtime/platform/platform.h"

namespace lora {
namespace {

constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

// Returns the first word of a file as a number; "max" and anything else is nothing.
std::optional<double> ReadNumber(const std::string& path) {
  std::ifstream in(path);
  double value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

// Reads "MemAvailable:  123 kB" in /proc/meminfo, "inactive_file 123" in memory.stat.
std::optional<double> ReadField(const std::string& path, const std::string& field) {
  std::ifstream in(path);
  std::string name;
  double value = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    if (words >> name >> value && name == field) return value;
  }
  return std::nullopt;
}

// Returns the directories of this process in one cgroup hierarchy, innermost first. Inside a
// container the path in /proc/self/cgroup may not exist below the mount; then the mount itself is
// the only one.
std::vector<std::string> CgroupDirs(const SystemFiles& files, const std::string& controller) {
  std::ifstream in(files.proc + "/self/cgroup");
  std::string path;
  bool found = false;
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = ',' + line.substr(first + 1, second - first - 1) + ',';
    const bool match = controller.empty() ? names == ",,"
                                          : names.find(',' + controller + ',') != std::string::npos;
    if (!match) continue;
    path = line.substr(second + 1);
    found = true;
  }
  if (!found) return {};
  const std::string root = controller.empty() ? files.cgroup : files.cgroup + '/' + controller;
  std::vector<std::string> dirs;
  while (!path.empty() && path != "/") {
    dirs.push_back(root + path);
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  dirs.push_back(root);
  return dirs;
}

size_t ToBytes(double value) {
  return value >= 1e18 ? kUnlimited : static_cast<size_t>(std::max(0.0, value));
}

// Calls visit(limit, usage) for every level that has a limit. The page cache that can be
// dropped does not count as usage.
template <class Visit>
void VisitMemoryCgroups(const SystemFiles& files, Visit visit) {
  const auto level = [&](const std::string& dir, const char* max, const char* current,
                         const char* cache) {
    const auto limit = ReadNumber(dir + max), used = ReadNumber(dir + current);
    if (!limit || *limit >= 1e18) return;  // v1 spells "no limit" as a huge number
    visit(*limit,
          std::max(0.0, used.value_or(0) - ReadField(dir + "/memory.stat", cache).value_or(0)));
  };
  for (const std::string& dir : CgroupDirs(files, ""))
    level(dir, "/memory.max", "/memory.current", "inactive_file");
  for (const std::string& dir : CgroupDirs(files, "memory"))
    level(dir, "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file");
}

}  // namespace

size_t AvailableMemory(const SystemFiles& files) {
  const auto available = ReadField(files.proc + "/meminfo", "MemAvailable:");
  const auto system = platform::AskSystemMemory();
  double free = available ? *available * 1024
                : system  ? static_cast<double>(system->available)
                          : 1e19;
  VisitMemoryCgroups(files,
                     [&](double limit, double used) { free = std::min(free, limit - used); });
  return ToBytes(free);
}

size_t TotalMemory(const SystemFiles& files) {
  const auto total = ReadField(files.proc + "/meminfo", "MemTotal:");
  const auto system = platform::AskSystemMemory();
  double bytes = total ? *total * 1024 : system ? static_cast<double>(system->total) : 1e19;
  VisitMemoryCgroups(files, [&](double limit, double) { bytes = std::min(bytes, limit); });
  return ToBytes(bytes);
}

int CpuCount(const SystemFiles& files) {
  double count = platform::AllowedCpuCount();
  for (const std::string& dir : CgroupDirs(files, "")) {
    std::ifstream in(dir + "/cpu.max");
    double quota = 0, period = 0;
    if (in >> quota >> period && period > 0) count = std::min(count, quota / period);
  }
  for (const std::string& dir : CgroupDirs(files, "cpu")) {
    const auto quota = ReadNumber(dir + "/cpu.cfs_quota_us");
    const auto period = ReadNumber(dir + "/cpu.cfs_period_us");
    if (quota && period && *quota > 0 && *period > 0) count = std::min(count, *quota / *period);
  }
  return std::max(1, static_cast<int>(std::ceil(count)));
}

std::string CpuName(const SystemFiles& files) {
  std::ifstream in(files.proc + "/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return platform::AskProcessorName().value_or("CPU");
}

}  // namespace lora
