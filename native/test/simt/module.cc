// module_test.cc loads this.
#include <string>
#include <vector>

#include "test/simt/seeded_kernels.h"

// Returns the reports of one launch of Exchange.
extern "C" __attribute__((visibility("default"))) const char* LoraSimtModuleRun(int bug);
const char* LoraSimtModuleRun(int bug) {
  using namespace lora::simt;  // NOLINT: all of it
  static std::string text;
  Buffer in(512, "in"), out(512, "out");
  const std::vector<float> values(128, 1.0f);
  in.Upload(values.data());
  text = Exchange(Options(), bug, in.as<float>(), out.as<float>()).Text();
  return text.c_str();
}
