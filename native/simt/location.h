// Says where in a kernel something happened: a file and line from the caller, or a return address.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lora::simt {

struct Loc {
  const char* file;
  int line;
  static constexpr Loc Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// Holds either in one word: bit 63, 15 bits of line and the file's address, or a plain return
// address. 0 is no site.
using Site = uint64_t;
// Returns the number of a site, so that shadow cells stay small.
using SiteId = uint32_t;
SiteId IdOf(Site site);
Site SiteOfId(SiteId id);
inline Site SiteOf(Loc loc) {
  return (uint64_t{1} << 63) | (static_cast<uint64_t>(loc.line & 0x7fff) << 48) |
         (reinterpret_cast<uint64_t>(loc.file) & 0xffffffffffff);
}
inline Site SiteOf(const void* return_address) {
  return reinterpret_cast<uint64_t>(return_address);
}

// Returns "gemm.cuh:42" for each. Return addresses go to addr2line, all unknown ones in one call.
std::vector<std::string> Resolve(const std::vector<Site>& sites);

// Tells whether p lies in a loaded segment of the module that holds the emulator, where
// constants and static tables are.
bool InModule(const void* p);

}  // namespace lora::simt
