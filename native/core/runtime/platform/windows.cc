#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <malloc.h>
#include <windows.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <system_error>

#include "core/runtime/platform/platform.h"

namespace lora::platform {
namespace {

struct Handle {
  explicit Handle(HANDLE handle) : handle(handle) {}
  ~Handle() {
    if (valid()) CloseHandle(handle);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  bool valid() const { return handle != nullptr && handle != INVALID_HANDLE_VALUE; }
  const HANDLE handle;
};

FileMapping Problem(std::string why, bool no_room = false) {
  return {nullptr, 0, std::move(why), no_room};
}

std::string LastReason() {
  return std::system_category().message(static_cast<int>(GetLastError()));
}

// Returns an empty text when the argument is not UTF-8.
std::wstring Wide(const std::string& text) {
  const int length = static_cast<int>(text.size());
  const int needed =
      MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text.data(), length, nullptr, 0);
  std::wstring wide(static_cast<size_t>(std::max(needed, 0)), L'\0');
  if (needed > 0)
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text.data(), length, wide.data(), needed);
  return wide;
}

}  // namespace

void* MapPages(size_t bytes) {
  return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

// Large pages take a privilege that programs do not have unless an administrator grants it.
void* MapHugePages(size_t bytes) { return MapPages(bytes); }
void AdviseHugePages(void*, size_t) {}

void DropPages(void*, size_t) {}

void UnmapPages(void* data, size_t) { VirtualFree(data, 0, MEM_RELEASE); }

void* AllocateAligned(size_t alignment, size_t bytes) { return _aligned_malloc(bytes, alignment); }

void FreeAligned(void* data) { _aligned_free(data); }

FileMapping MapFile(const std::string& path) {
  const std::wstring name = Wide(path);
  if (name.empty()) return Problem("its name is not UTF-8");
  const DWORD attributes = GetFileAttributesW(name.c_str());
  if (attributes == INVALID_FILE_ATTRIBUTES) {
    // These are the words of the other systems.
    const DWORD error = GetLastError();
    if (error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND)
      return Problem("No such file or directory");
    return Problem(LastReason());
  }
  if ((attributes & FILE_ATTRIBUTE_DIRECTORY) != 0) return Problem("it is a directory");
  // Others may replace, rename and delete the file, as they may elsewhere.
  const Handle file(CreateFileW(name.c_str(), GENERIC_READ,
                                FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                                OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr));
  if (!file.valid()) return Problem(LastReason());
  if (GetFileType(file.handle) != FILE_TYPE_DISK) return Problem("it is not a regular file");
  LARGE_INTEGER size;
  if (!GetFileSizeEx(file.handle, &size)) return Problem(LastReason());
  // An empty mapping is an error of Windows, but an empty file is none.
  if (size.QuadPart == 0) return {};
  const Handle mapping(CreateFileMappingW(file.handle, nullptr, PAGE_WRITECOPY, 0, 0, nullptr));
  if (!mapping.valid()) return Problem("it cannot be mapped: " + LastReason());
  void* data = MapViewOfFile(mapping.handle, FILE_MAP_COPY, 0, 0, 0);
  if (data == nullptr) {
    const DWORD error = GetLastError();
    return Problem("it cannot be mapped: " + LastReason(),
                   error == ERROR_NOT_ENOUGH_MEMORY || error == ERROR_COMMITMENT_LIMIT);
  }
  return {static_cast<uint8_t*>(data), static_cast<uint64_t>(size.QuadPart), "", false};
}

void UnmapFile(uint8_t* data, uint64_t) {
  if (data != nullptr) UnmapViewOfFile(data);
}

FileLock::~FileLock() {
  if (file_ != -1) CloseHandle(reinterpret_cast<HANDLE>(file_));
}

bool FileLock::Try(const std::string& path, std::string& problem) {
  const std::wstring name = Wide(path);
  if (name.empty()) {
    problem = "its name is not UTF-8";
    return false;
  }
  const HANDLE file = CreateFileW(name.c_str(), GENERIC_READ | GENERIC_WRITE,
                                  FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                                  OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file == INVALID_HANDLE_VALUE) {
    // A file that is being deleted answers with ERROR_ACCESS_DENIED until it is gone.
    const DWORD error = GetLastError();
    if (error != ERROR_FILE_NOT_FOUND && error != ERROR_ACCESS_DENIED) problem = LastReason();
    return false;
  }
  OVERLAPPED first_byte = {};
  if (LockFileEx(file, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &first_byte) !=
      0) {
    file_ = reinterpret_cast<intptr_t>(file);
    return true;
  }
  if (GetLastError() != ERROR_LOCK_VIOLATION) problem = LastReason();
  CloseHandle(file);
  return false;
}

void* OpenLibrary(const char* name) {
  // It is loaded from the system's own folder, where NVIDIA's driver is, and not from the current
  // one.
  return LoadLibraryExA(name, nullptr, LOAD_LIBRARY_SEARCH_SYSTEM32);
}

void* FindSymbol(void* library, const char* symbol) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), symbol));
}

void WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t value) { word.wait(value); }
void WakeOne(std::atomic<uint32_t>& word) { word.notify_one(); }
void WakeAll(std::atomic<uint32_t>& word) { word.notify_all(); }

const char* CudaDriverLibrary() { return "nvcuda.dll"; }

void KeepLoaded() {
  HMODULE self;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                     reinterpret_cast<LPCWSTR>(&KeepLoaded), &self);
}

int AllowedCpuCount() {
  DWORD_PTR process = 0, system = 0;
  if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system) && process != 0)
    return std::popcount(static_cast<uint64_t>(process));
  // A process in several groups of processors gets no mask.
  return static_cast<int>(std::max<DWORD>(1, GetActiveProcessorCount(ALL_PROCESSOR_GROUPS)));
}

std::optional<SystemMemory> AskSystemMemory() {
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof(status);
  if (!GlobalMemoryStatusEx(&status)) return std::nullopt;
  return SystemMemory{status.ullTotalPhys, std::min(status.ullAvailPhys, status.ullAvailPageFile)};
}

std::optional<std::string> AskProcessorName() {
  char name[256] = "";
  DWORD size = sizeof(name) - 1;
  if (RegGetValueA(HKEY_LOCAL_MACHINE, "HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0",
                   "ProcessorNameString", RRF_RT_REG_SZ, nullptr, name, &size) != ERROR_SUCCESS)
    return std::nullopt;
  return std::string(name);
}

ArmFeatures AskArmFeatures() { return {}; }  // built for x86-64 only

// Windows gives leave by EnableProcessOptionalXStateFeatures, which is not called because nothing
// has tested it.
bool AskForTileRegisters() { return false; }

}  // namespace lora::platform
