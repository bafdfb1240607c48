// What the machine, or the part of it that this process may use, has.
#pragma once

#include <cstddef>
#include <string>

namespace lora {

// Where the system's numbers are read from; tests point it at files of their own.
struct SystemFiles {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
};
// What the cgroup (v2 or v1, every level up to the root) and MemAvailable leave right now.
size_t AvailableMemory(const SystemFiles& files = {});
// MemTotal, or the cgroup's limit where that is lower.
size_t TotalMemory(const SystemFiles& files = {});
// CPUs this process may use: its affinity mask, cut to the cgroup's quota; at least 1.
int CpuCount(const SystemFiles& files = {});
// The processor's name as the system gives it, or "CPU".
std::string CpuName(const SystemFiles& files = {});

}  // namespace lora
