// Tests when the host knows what lies in device memory.
#include "core/ops/host_copy.h"

#include <doctest/doctest.h>

#include <cstdint>

#include "core/ops/tensor_view.h"

namespace lora::test {
namespace {

TEST_CASE("host_copy: knows what was written whole, and parts of that, until it is forgotten") {
  int32_t device[4] = {};  // its address alone counts
  HostCopy copy(device, sizeof device);
  CHECK(copy.At(device) == nullptr);
  const int32_t part[] = {7, 8};
  copy.Wrote(device + 1, part, sizeof part);
  CHECK(copy.At(device + 1) == nullptr);  // the rest is the device's
  const int32_t whole[] = {1, 2, 3, 4};
  copy.Wrote(device, whole, sizeof whole);
  copy.Wrote(device + 1, part, sizeof part);
  const auto* const known = static_cast<const int32_t*>(copy.At(device));
  REQUIRE(known != nullptr);
  CHECK(known[0] == 1);
  CHECK(known[1] == 7);
  CHECK(known[2] == 8);
  CHECK(known[3] == 4);

  TensorView view(device + 2, DType::kI32, {2});
  CHECK(!view.on_host());  // a view without a copy
  view.host_copy = &copy;
  REQUIRE(view.on_host());
  CHECK(view.on_host().as<int32_t>()[0] == 8);
  copy.Forget();
  CHECK(!view.on_host());
}

}  // namespace
}  // namespace lora::test
