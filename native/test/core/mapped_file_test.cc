#include "core/io/mapped_file.h"

#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"

namespace lora {
namespace {

namespace fs = std::filesystem;

struct TemporaryFolder {
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "lora-mapped-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() { fs::remove_all(path); }
  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(path / name, std::ios::binary) << content;
    return (path / name).string();
  }
  fs::path path;
};

std::string Text(const MappedFile& file) {
  return std::string(reinterpret_cast<const char*>(file.data()), file.size());
}

// Returns "code: message" of what opening the path throws.
std::string FailureOf(const std::string& path) {
  try {
    MappedFile::Open(path);
  } catch (const Error& error) {
    return error.code() + ": " + error.what();
  }
  return "no error";
}

TEST_CASE("mapped_file gives the bytes of the file") {
  const TemporaryFolder folder;
  const auto file = MappedFile::Open(folder.Write("a", std::string("x\0yz", 4)));
  CHECK(file->size() == 4);
  CHECK(Text(*file) == std::string("x\0yz", 4));
}

TEST_CASE("mapped_file of an empty file is empty") {
  const TemporaryFolder folder;
  const auto file = MappedFile::Open(folder.Write("empty", ""));
  CHECK(file->size() == 0);
  CHECK(file->data() == nullptr);
}

TEST_CASE("mapped_file copies on write and leaves the file alone") {
  const TemporaryFolder folder;
  const std::string path = folder.Write("a", "before");
  const auto file = MappedFile::Open(path);
  file->data()[0] = 'B';
  CHECK(Text(*file) == "Before");
  CHECK(Text(*MappedFile::Open(path)) == "before");
}

TEST_CASE("mapped_file survives replacement and removal of the file") {
  const TemporaryFolder folder;
  const std::string path = folder.Write("a", "old content");
  const auto file = MappedFile::Open(path);
  fs::rename(folder.Write("b", "new"), path);
  CHECK(Text(*file) == "old content");
  CHECK(Text(*MappedFile::Open(path)) == "new");
  fs::remove(path);
  CHECK(Text(*file) == "old content");
}

TEST_CASE("mapped_file names the file that it cannot open, and why") {
  const TemporaryFolder folder;
  const std::string missing = (folder.path / "missing").string();
  CHECK(FailureOf(missing) == "ERR_FILE: cannot open " + missing + ": No such file or directory");
  CHECK(FailureOf(folder.path.string()) ==
        "ERR_FILE: cannot open " + folder.path.string() + ": it is a directory");
  const std::string pipe = (folder.path / "pipe").string();
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(FailureOf(pipe) == "ERR_FILE: cannot open " + pipe + ": it is not a regular file");
}

}  // namespace
}  // namespace lora
