#include "core/io/mapped_file.h"

#include "core/error.h"
#include "core/runtime/platform/platform.h"

namespace lora {

std::shared_ptr<const MappedFile> MappedFile::Open(const std::string& path) {
  if (count_ >= kMax)
    throw Error("ERR_OUT_OF_MEMORY", "openFile",
                "cannot open " + path + ": " + std::to_string(kMax) + " files are open already");
  const platform::FileMapping mapping = platform::MapFile(path);
  if (!mapping.problem.empty())
    throw Error(mapping.no_room ? "ERR_OUT_OF_MEMORY" : "ERR_FILE", "openFile",
                "cannot open " + path + ": " + mapping.problem);
  return std::shared_ptr<const MappedFile>(new MappedFile(mapping.data, mapping.size));
}

MappedFile::~MappedFile() {
  platform::UnmapFile(data_, size_);
  --count_;
}

}  // namespace lora
