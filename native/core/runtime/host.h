// Tells what the machine, or the part of it that this process may use, has.
#pragma once

#include <cstddef>
#include <string>

namespace lora {

// Says where the system's numbers are read from; tests point it at files of their own.
struct SystemFiles {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
};
// Returns what the cgroup (v2 or v1, every level up to the root) and MemAvailable leave now.
size_t AvailableMemory(const SystemFiles& files = {});
// Returns MemTotal, or the cgroup's limit where that is lower.
size_t TotalMemory(const SystemFiles& files = {});
// Returns the CPUs this process may use: its affinity mask, cut to the cgroup's quota; at least 1.
int CpuCount(const SystemFiles& files = {});
// Returns the processor's name as the system gives it, or "CPU".
std::string CpuName(const SystemFiles& files = {});

}  // namespace lora
