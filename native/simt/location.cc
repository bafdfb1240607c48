#include "simt/location.h"

#include <link.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>
#include <unordered_map>

namespace lora::simt {
namespace {

struct Segment {
  uintptr_t begin, end;
};
struct Module {
  std::string path;  // empty: the program itself
  uintptr_t base = 0;
  std::vector<Segment> segments;
  bool Holds(uintptr_t p) const {
    for (const Segment& s : segments)
      if (p >= s.begin && p < s.end) return true;
    return false;
  }
};

// It is not cached, because the emulator may be in an add-on that is loaded later than others.
Module ModuleOf(uintptr_t address) {
  struct Search {
    uintptr_t address;
    Module found;
  } search{address, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto* s = static_cast<Search*>(data);
        Module m{info->dlpi_name, info->dlpi_addr, {}};
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
          m.segments.push_back({begin, begin + header.p_memsz});
        }
        if (!m.Holds(s->address)) return 0;
        s->found = std::move(m);
        return 1;
      },
      &search);
  return search.found;
}

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// Reads one line of addr2line's answer: "/path/gemm.cuh:42 (discriminator 3)".
std::string Short(std::string line) {
  while (!line.empty() && line.back() == '\n') line.pop_back();
  line = line.substr(0, line.find(" (disc"));
  return BaseName(line);
}

}  // namespace

namespace {
std::vector<Site> sites_by_id;
}

SiteId IdOf(Site site) {
  // Loops come back to the same few addresses, so most look-ups end in this cache.
  struct Entry {
    Site site = ~Site{0};
    SiteId id = 0;
  };
  static Entry cache[1024];
  static auto& ids = *new std::unordered_map<Site, SiteId>;
  Entry& entry = cache[(site * 0x9e3779b97f4a7c15u) >> 54];
  if (entry.site == site) return entry.id;
  const auto [it, fresh] = ids.try_emplace(site, static_cast<SiteId>(sites_by_id.size()));
  if (fresh) sites_by_id.push_back(site);
  entry = {site, it->second};
  return it->second;
}

Site SiteOfId(SiteId id) { return sites_by_id[id]; }

bool InModule(const void* p) {
  static const Module& self = *new Module(ModuleOf(reinterpret_cast<uintptr_t>(&InModule)));
  return self.Holds(reinterpret_cast<uintptr_t>(p));
}

std::vector<std::string> Resolve(const std::vector<Site>& sites) {
  static auto& known = *new std::map<Site, std::string>;
  std::map<std::string, std::vector<Site>> unknown;  // by command
  for (const Site site : sites) {
    if (known.count(site) || site == 0) continue;
    if (site >> 63) {
      const char* file = reinterpret_cast<const char*>(site & 0xffffffffffff);
      known[site] = BaseName(file) + ":" + std::to_string((site >> 48) & 0x7fff);
      continue;
    }
    known[site] = "an unknown place";
    const Module m = ModuleOf(site);
    const std::string path = m.path.empty() ? "/proc/" + std::to_string(getpid()) + "/exe" : m.path;
    unknown["addr2line -e '" + path + "'"].push_back(site);
  }
  for (const auto& [command, addresses] : unknown) {
    std::string line = command;
    for (const Site site : addresses) {
      char text[32];
      // One byte before the return address is still inside the call.
      std::snprintf(text, sizeof text, " 0x%llx",
                    static_cast<unsigned long long>(site - ModuleOf(site).base - 1));
      line += text;
    }
    const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen((line + " 2>/dev/null").c_str(), "r"),
                                                     pclose);
    char answer[4096];
    for (const Site site : addresses)
      if (pipe && std::fgets(answer, sizeof answer, pipe.get())) known[site] = Short(answer);
  }
  std::vector<std::string> result;
  for (const Site site : sites) result.push_back(site == 0 ? "" : known[site]);
  return result;
}

}  // namespace lora::simt
