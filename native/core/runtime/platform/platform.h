// Declares what the operating systems name differently. Each system has an implementation: posix.cc
// with linux.cc or macos.cc, and windows.cc. CMake picks the files, so no caller asks which system
// it is on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace lora::platform {

// ---- memory ------------------------------------------------------------------------------------

// Returns zeroed pages of the process's own, nullptr where the system has none left.
void* MapPages(size_t bytes);
// Returns the same at the start of a huge page, and advises to use huge pages, on systems that take
// such advice.
void* MapHugePages(size_t bytes);
// Frees memory of MapPages or MapHugePages, with the bytes that were asked for.
void UnmapPages(void* data, size_t bytes);

// Asks for huge pages where the memory spans some. A refusal changes nothing.
void AdviseHugePages(void* data, size_t bytes);
// Whether the system takes that advice.
#if defined(__linux__)
inline constexpr bool kAdvisesHugePages = true;
#else
inline constexpr bool kAdvisesHugePages = false;
#endif

// Gives the whole pages within memory of MapPages or MapHugePages back to the system, where it can
// take a part of a mapping. What they held is lost.
void DropPages(void* data, size_t bytes);

// `bytes` must be a multiple of the alignment, a power of two.
void* AllocateAligned(size_t alignment, size_t bytes);
void FreeAligned(void* data);

// ---- files -------------------------------------------------------------------------------------

// Maps a whole file into memory. Pages that are written become copies, so the file keeps its
// content.
struct FileMapping {
  uint8_t* data = nullptr;  // null for an empty file
  uint64_t size = 0;
  std::string problem;   // why there is no mapping, in words; empty when there is one
  bool no_room = false;  // and the reason is that the system has no memory or too many mappings
};
// `path` is UTF-8.
FileMapping MapFile(const std::string& path);
void UnmapFile(uint8_t* data, uint64_t size);

// A lock on a whole file that other processes may take too, among them Python's filelock: flock on
// Linux and macOS, a lock of the first byte on Windows. It ends with this object, and with the
// process at the latest.
class FileLock {
 public:
  FileLock() = default;
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  // Tries to lock the file at `path` (UTF-8), which must exist; never waits. Returns false where
  // another holds it, or the file is gone from its name. `problem` says in words why there can be
  // no lock.
  bool Try(const std::string& path, std::string& problem);

 private:
  intptr_t file_ = -1;  // a descriptor, or a handle of Windows
};

// ---- shared libraries --------------------------------------------------------------------------

// Returns nullptr where there is none. The library stays loaded until the process ends.
void* OpenLibrary(const char* name);
void* FindSymbol(void* library, const char* symbol);
// Returns the name of the library by which NVIDIA's driver is called.
const char* CudaDriverLibrary();
// Keeps the add-on in memory until the process ends. Node unloads it when the last worker that
// loaded it ends, and a thread of ours must not find its code gone.
void KeepLoaded();

// ---- waiting -----------------------------------------------------------------------------------

// Replace std::atomic's wait and notify, which the C++ library of GCC 10 lacks. The wait may
// return before the word has changed.
void WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t value);
void WakeOne(std::atomic<uint32_t>& word);
void WakeAll(std::atomic<uint32_t>& word);

// ---- processor and memory of the machine -------------------------------------------------------

// Returns the number of CPUs on which the system may run this process, at least 1.
int AllowedCpuCount();

// These return what the system says where it has no /proc to read it from, and nothing elsewhere.
struct SystemMemory {
  uint64_t total = 0;
  uint64_t available = 0;
};
std::optional<SystemMemory> AskSystemMemory();
std::optional<std::string> AskProcessorName();

// Lists the features of 64-bit ARM that kernels are compiled for and that not every CPU has.
struct ArmFeatures {
  bool aes = false, fp16 = false, dot_product = false, bf16 = false;
};
ArmFeatures AskArmFeatures();

// Asks for leave to use the tile registers of AMX (x86-64), which a process needs once, before it
// uses them. Returns false where the system gives none, or saves no such registers.
bool AskForTileRegisters();

}  // namespace lora::platform
