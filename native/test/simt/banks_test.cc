// Tests that bank conflicts of ordinary accesses are counted as hardware meets them.
#include <doctest/doctest.h>

#include "test/simt/bank_kernels.h"

namespace lora::simt {
namespace {

Result Reads(int bytes, int stride, bool some = false, int schedule = 0, bool count = true) {
  Buffer out(64 * 4, "out");
  Options options;
  options.threads = static_cast<Schedule>(schedule);
  options.count_banks = count;
  const Result result = StridedReads(options, bytes, stride, some, out.as<uint32_t>());
  CHECK_MESSAGE(result.reports.empty(), result.Text());
  return result;
}

}  // namespace

TEST_CASE("bank conflicts of ordinary reads are counted, whatever the schedule") {
  const struct {
    int bytes, stride;
    double conflict;
  } cases[] = {
      {4, 4, 1},     // a row of words
      {4, 8, 2},     // every second word
      {4, 128, 32},  // a column of a tile of 32 words
      {4, 132, 1},   // of one whose rows are padded by a word
      {4, 0, 1},     // one word for all
      {2, 2, 1},     // two lanes in each word
      {2, 64, 16},  {8, 8, 1},   {8, 16, 2},   {8, 128, 16},
      {16, 16, 1},  {16, 32, 2}, {16, 128, 8}, {16, 144, 1},
  };
  for (const auto& c : cases) {
    for (int schedule = 0; schedule < 3; ++schedule) {
      CAPTURE(c.bytes);
      CAPTURE(c.stride);
      CAPTURE(schedule);
      CHECK(Reads(c.bytes, c.stride, false, schedule).worst_bank_conflict == c.conflict);
    }
  }
}

TEST_CASE("bank conflicts: lanes that take no part wait for nobody, and want no word") {
  CHECK(Reads(4, 128, true).worst_bank_conflict == 24);
  CHECK(Reads(4, 132, true).worst_bank_conflict == 1);
}

TEST_CASE("bank conflicts: the worst place is named, and nothing is counted unasked") {
  const Result result = Reads(4, 128);
  CHECK_MESSAGE(result.worst_bank_place.find("bank_kernels.cc:") != std::string::npos,
                result.worst_bank_place);
  CHECK(Reads(4, 128, false, 0, false).worst_bank_conflict == 0);
  Result sum = Reads(4, 8);
  sum.Add(result);
  sum.Add(Reads(4, 4));
  CHECK(sum.worst_bank_conflict == 32);
  CHECK(sum.worst_bank_place == result.worst_bank_place);
}

}  // namespace lora::simt
