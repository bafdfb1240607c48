// Reads what nvcc says of kernels in the code that it puts into a program: a fat binary is a list
// of images, one for each architecture, of which those with code are ELF files, compressed.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "test/driver/fake_cudart.h"

namespace lora::test {
namespace {

[[noreturn]] void Unknown(const std::string& what) {
  throw std::runtime_error("a fat binary of a form that the test cannot read: " + what);
}

template <class T>
T At(const std::vector<char>& bytes, size_t at) {
  T value;
  if (at + sizeof value > bytes.size()) Unknown("it ends too early");
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// libzstd is there wherever GCC is, but perhaps not its header.
std::vector<char> Decompress(const char* from, size_t size, size_t decompressed) {
  using Function = size_t(void*, size_t, const void*, size_t);
  static void* const library = dlopen("libzstd.so.1", RTLD_NOW);
  static auto* const function =
      library ? reinterpret_cast<Function*>(dlsym(library, "ZSTD_decompress")) : nullptr;
  if (!function) Unknown("there is no libzstd.so.1");
  std::vector<char> to(decompressed);
  if (function(to.data(), to.size(), from, size) != decompressed) Unknown("not of zstd");
  return to;
}

// The images of a fat binary; each has a header of its own.
struct Image {
  uint16_t kind = 0;  // 1: PTX, 2: ELF
  uint16_t version = 0;
  uint32_t header_bytes = 0;
  uint64_t padded_bytes = 0;
  uint32_t compressed_bytes = 0;
  uint32_t unused[2] = {};
  uint32_t arch = 0;
  uint32_t more[2] = {};
  uint64_t flags = 0;
  uint64_t unused_too = 0;
  uint64_t bytes = 0;  // after decompression; 0 where it is not compressed
};
static_assert(sizeof(Image) == 64);

struct Section {
  std::string name;
  uint32_t info = 0;
  size_t offset = 0, bytes = 0;
};

std::vector<Section> SectionsOf(const std::vector<char>& elf) {
  struct Header {
    uint32_t name, type;
    uint64_t flags, address, offset, size;
    uint32_t link, info;
    uint64_t align, entry;
  };
  if (elf.size() < 64 || std::memcmp(elf.data(),
                                     "\x7f"
                                     "ELF\x02",
                                     5) != 0)
    Unknown("not of ELF");
  const auto table = At<uint64_t>(elf, 40);
  const auto count = At<uint16_t>(elf, 60), names = At<uint16_t>(elf, 62);
  const auto header = [&](size_t i) { return At<Header>(elf, table + i * sizeof(Header)); };
  const size_t strings = header(names).offset;
  std::vector<Section> sections;
  for (size_t i = 0; i < count; ++i) {
    const Header h = header(i);
    std::string name;
    for (size_t at = strings + h.name; At<char>(elf, at) != 0; ++at) name += At<char>(elf, at);
    sections.push_back({name, h.info, h.offset, h.size});
  }
  return sections;
}

// .nv.info and .nv.info.KERNEL are lists of attributes: a format, a name, and a value of 16 bits or
// its size. Calls visit(where the value is) for each attribute of that name.
template <class F>
void ForAttributes(const std::vector<char>& elf, const Section& section, uint8_t name, F visit) {
  constexpr uint8_t kSized = 4;
  const size_t end = section.offset + section.bytes;
  for (size_t at = section.offset; at < end;) {
    const auto format = At<uint8_t>(elf, at), attribute = At<uint8_t>(elf, at + 1);
    const auto value = At<uint16_t>(elf, at + 2);
    at += 4;
    if (format == kSized && attribute == name) visit(at);
    if (format == kSized) at += value;
  }
}

unsigned ThreadsIn(const std::vector<char>& elf, const Section& section) {
  constexpr uint8_t kMaxThreads = 5;
  unsigned threads = 1024;  // without __launch_bounds__
  ForAttributes(elf, section, kMaxThreads, [&](size_t at) {
    threads = At<uint32_t>(elf, at) * At<uint32_t>(elf, at + 4) * At<uint32_t>(elf, at + 8);
  });
  return threads;
}

// Returns the registers of kernels by the numbers of their symbols.
std::map<uint32_t, unsigned> RegistersIn(const std::vector<char>& elf, const Section& section) {
  constexpr uint8_t kRegisters = 0x2f;
  std::map<uint32_t, unsigned> registers;
  ForAttributes(elf, section, kRegisters,
                [&](size_t at) { registers[At<uint32_t>(elf, at)] = At<uint32_t>(elf, at + 4); });
  return registers;
}

// Returns the number of the PTX that a cubin was assembled from. Its ELF header has none; a note
// has the version of its form, the number, and the toolkit.
int PtxVersionIn(const std::vector<char>& elf, const std::vector<Section>& sections) {
  constexpr size_t kSizes = 12, kName = 12;  // of the sizes and type of a note; "NVIDIA Corp"
  for (const Section& section : sections) {
    if (section.name != ".note.nv.cuinfo") continue;
    if (At<uint32_t>(elf, section.offset) != kName || At<uint32_t>(elf, section.offset + 4) < 4)
      Unknown("another note of its PTX");
    return At<uint16_t>(elf, section.offset + kSizes + kName + 2);
  }
  Unknown("no note of its PTX");
}

std::map<std::string, KernelFacts> FactsInElf(const std::vector<char>& elf, int arch) {
  constexpr size_t kSystemSharedBytes = 1024;
  std::map<std::string, KernelFacts> facts;
  const auto after = [](const Section& section, const std::string& prefix) {
    return section.name.starts_with(prefix) ? section.name.substr(prefix.size()) : "";
  };
  const std::vector<Section> sections = SectionsOf(elf);
  std::map<uint32_t, unsigned> registers;
  for (const Section& section : sections) {
    if (section.name == ".nv.info") registers = RegistersIn(elf, section);
    if (const std::string kernel = after(section, ".nv.info."); !kernel.empty())
      facts[kernel].threads = ThreadsIn(elf, section);
  }
  for (const Section& section : sections) {
    if (const auto it = facts.find(after(section, ".text.")); it != facts.end())
      it->second.registers = registers[section.info & 0xffffff];  // the kernel's symbol
    // From sm_90 on the section counts the 1024 bytes that the system takes, which ptxas and the
    // device's limit do not.
    if (const auto it = facts.find(after(section, ".nv.shared.")); it != facts.end())
      it->second.static_shared_bytes = section.bytes - (arch >= 90 ? kSystemSharedBytes : 0);
  }
  const int ptx_version = PtxVersionIn(elf, sections);
  for (auto& [kernel, of] : facts) of.ptx_version = ptx_version;
  for (const auto& [kernel, of] : facts)
    if (of.registers == 0) Unknown("no registers of " + kernel);
  return facts;
}

}  // namespace

std::map<std::string, KernelFacts> FactsInFatBinary(const void* fat_binary, int arch) {
  struct Wrapper {
    uint32_t magic, version;
    const char* data;
    void* unused;
  };
  struct Header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
  };
  const auto& wrapper = *static_cast<const Wrapper*>(fat_binary);
  if (wrapper.magic != 0x466243b1) Unknown("another wrapper");
  Header header;
  std::memcpy(&header, wrapper.data, sizeof header);
  if (header.magic != 0xba55ed50 || header.version != 1) Unknown("another header");

  // A device runs the newest code of its generation that is not newer than it.
  const char* best = nullptr;
  Image chosen;
  const char* at = wrapper.data + header.header_bytes;
  for (const char* const end = at + header.bytes; at < end;) {
    Image image;
    std::memcpy(&image, at, sizeof image);
    if (image.header_bytes < sizeof image || (image.kind != 1 && image.kind != 2))
      Unknown("another image");
    const int own = static_cast<int>(image.arch);
    if (image.kind == 2 && own <= arch && own / 10 == arch / 10 &&
        (best == nullptr || image.arch > chosen.arch)) {
      best = at;
      chosen = image;
    }
    at += image.header_bytes + image.padded_bytes;
  }
  if (best == nullptr) return {};
  const char* const code = best + chosen.header_bytes;
  if (chosen.bytes == 0) return FactsInElf({code, code + chosen.padded_bytes}, arch);
  return FactsInElf(Decompress(code, chosen.compressed_bytes, chosen.bytes), arch);
}

}  // namespace lora::test
