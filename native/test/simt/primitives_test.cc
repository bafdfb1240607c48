// Compares every device primitive with plain C++: fragment layouts by the PTX manual,
// shuffles, barriers and copies.
#include <doctest/doctest.h>

#include "test/simt/self_test_kernels.h"

namespace lora::simt {

TEST_CASE("every primitive does what the self-test says, in every schedule") {
  for (const device::SelfTest test : device::kSelfTests)
    for (int turn = 0; turn < 9; ++turn) {
      Options options;
      options.threads = static_cast<Schedule>(turn % 3);
      options.async = static_cast<Async>(turn / 3);
      options.seed = static_cast<uint64_t>(turn) + 1;
      CAPTURE(static_cast<int>(test));
      CAPTURE(turn);
      const std::vector<uint32_t> input = device::SelfTestInput(test);
      const std::vector<uint32_t> expected = device::SelfTestExpected(test, input);
      Buffer in(input.size() * 4, "in"), out(expected.size() * 4, "out");
      in.Upload(input.data());
      Queue queue(options);
      LaunchSelfTest(test, in.as<uint32_t>(), out.as<uint32_t>(), queue);
      const Result result = queue.Synchronize();
      CHECK_MESSAGE(result.reports.empty(), result.Text());
      std::vector<uint32_t> got(expected.size());
      out.Download(got.data());
      for (size_t i = 0; i < got.size(); ++i) {
        if (got[i] == expected[i]) continue;
        FAIL_CHECK("word ", i, " is ", got[i], ", not ", expected[i]);
        break;
      }
    }
}

}  // namespace lora::simt
