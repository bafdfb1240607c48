#include "core/io/mapped_file.h"

#include "core/error.h"
#include "core/runtime/platform/platform.h"

namespace lora {

std::shared_ptr<const MappedFile> MappedFile::Open(const std::string& path) {
  const platform::FileMapping mapping = platform::MapFile(path);
  if (!mapping.problem.empty())
    throw Error("ERR_FILE", "openFile", "cannot open " + path + ": " + mapping.problem);
  return std::shared_ptr<const MappedFile>(new MappedFile(mapping.data, mapping.size));
}

MappedFile::~MappedFile() { platform::UnmapFile(data_, size_); }

}  // namespace lora
