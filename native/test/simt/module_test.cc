// Tests the emulator in a shared object that is loaded at run time, as an add-on is.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <string>

TEST_CASE("a loaded module runs kernels and names their lines") {
  void* module = dlopen(LORA_SIMT_MODULE, RTLD_NOW | RTLD_LOCAL);
  REQUIRE_MESSAGE(module != nullptr, std::string(dlerror() ? dlerror() : ""));
  const auto run = reinterpret_cast<const char* (*)(int)>(dlsym(module, "LoraSimtModuleRun"));
  REQUIRE(run != nullptr);
  CHECK(std::string(run(0)).empty());
  const std::string text = run(1);
  CAPTURE(text);
  CHECK(text.find("[race]") != std::string::npos);
  CHECK(text.find("seeded_kernels.cc:") != std::string::npos);
}
