// Tests launches that hardware refuses, the life of buffers, and the queue of the emulated device.
#include <doctest/doctest.h>

#include <thread>
#include <vector>

#include "simt/queue.h"
#include "test/simt/seeded_kernels.h"

namespace lora::simt {
namespace {

bool Refused(const Result& result, const char* why) {
  return result.reports.size() == 1 && result.Has(Kind::kLaunch) &&
         result.reports[0].text.find(why) != std::string::npos &&
         result.reports[0].text.find("seeded_kernels.cc:") != std::string::npos;
}

Options On(int arch, int device = 0) {
  Options options;
  options.arch = arch;
  options.device = device;
  return options;
}

}  // namespace

TEST_CASE("launches that hardware refuses are reported and not run") {
  const Options o;
  CHECK(Bounded(o, {1}, {128}, 0).reports.empty());
  CHECK(Refused(Bounded(o, {0}, {128}, 0), "no blocks"));
  CHECK(Refused(Bounded(o, {1, 65536}, {128}, 0), "above 65535"));
  CHECK(Refused(Bounded(o, {1, 1, 65536}, {128}, 0), "above 65535"));
  CHECK(Refused(Bounded(o, {0x80000000u}, {128}, 0), "above 2^31 - 1"));
  CHECK(Refused(Bounded(o, {1}, {0}, 0), "no threads"));
  CHECK(Refused(Bounded(o, {1}, {256}, 0), "bound to 128"));
  CHECK(Refused(Bounded(o, {1}, {1056}, 0), "above 1024"));
  CHECK(Refused(Bounded(o, {1}, {32, 4}, 0), "one-dimensional"));
}

TEST_CASE(
    "shared memory above 48 KiB needs an opt-in per device, and has a limit per architecture") {
  constexpr size_t kKiB = 1024;
  CHECK(Bounded(On(80), {1}, {128}, 48 * kKiB).reports.empty());
  CHECK(Refused(Bounded(On(80), {1}, {128}, 49 * kKiB), "without opting in on device 0"));
  SetMaxDynamicShared(0, BoundedKernel(), 227 * kKiB);
  CHECK(Bounded(On(80), {1}, {128}, 163 * kKiB).reports.empty());
  CHECK(Refused(Bounded(On(80, 1), {1}, {128}, 100 * kKiB), "without opting in on device 1"));
  CHECK(Refused(Bounded(On(80), {1}, {128}, 164 * kKiB), "sm_80 has"));
  for (const int arch : {86, 89, 120}) {
    CHECK(Bounded(On(arch), {1}, {128}, 99 * kKiB).reports.empty());
    CHECK(Refused(Bounded(On(arch), {1}, {128}, 100 * kKiB), "bytes of shared memory, and sm_"));
  }
  for (const int arch : {90, 100}) {
    CHECK(Bounded(On(arch), {1}, {128}, 227 * kKiB).reports.empty());
    CHECK(Refused(Bounded(On(arch), {1}, {128}, 228 * kKiB), "bytes of shared memory, and sm_"));
  }
}

TEST_CASE("a launch on a freed buffer is reported") {
  Buffer in(512, "in"), out(512, "out");
  const std::vector<float> values(128, 1.0f);
  in.Upload(values.data());
  const float* stale = in.as<float>();
  in.Free();
  const Result result = Exchange(Options(), 0, stale, out.as<float>());
  CHECK(result.Has(Kind::kUseAfterFree));
  CHECK(result.Text().find("'in' was freed") != std::string::npos);
}

TEST_CASE("the queue runs copies, launches and frees in order, late or at once") {
  for (const Async when : {Async::kLazy, Async::kEager, Async::kRandom}) {
    Options options;
    options.async = when;
    for (options.seed = 1; options.seed < 6; ++options.seed) {
      Queue queue(options);
      float* in = static_cast<float*>(DeviceAlloc(1, 512, 512, "in"));
      float* out = static_cast<float*>(DeviceAlloc(1, 512, 512, "out"));
      std::vector<float> host(128), result(128);
      for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<float>(i);
      queue.CopyToDevice(in, host.data(), 512);
      queue.Enqueue([=] { return Exchange(options, 0, in, out); });
      queue.CopyToHost(result.data(), out, 512);
      queue.Free(in);
      queue.Free(out);
      const Result found = queue.Synchronize();
      CHECK_MESSAGE(found.reports.empty(), found.Text());
      for (size_t i = 0; i < host.size(); ++i) CHECK(result[i] == host[i ^ 37]);
    }
  }
}

TEST_CASE("staging memory used again before the queue is done is reported") {
  Queue queue{Options()};
  Buffer buffer(512, "buffer");
  std::vector<float> staging(128, 1.0f);
  queue.CopyToDevice(buffer.as<float>(), staging.data(), 512);
  staging[5] = 2;
  CHECK(queue.Synchronize().Has(Kind::kStaging));
  std::vector<float> target(128);
  queue.CopyToHost(target.data(), buffer.as<float>(), 512);
  CHECK(target[5] != 2.0f);  // read too early
  target[5] = 3;
  CHECK(queue.Synchronize().Has(Kind::kStaging));
  CHECK(target[5] == 2.0f);
}

TEST_CASE("memory freed at once under a queued launch is reported") {
  Queue queue{Options()};
  Buffer in(512, "in"), out(512, "out");
  const std::vector<float> values(128, 1.0f);
  in.Upload(values.data());
  const float* data = in.as<float>();
  float* target = out.as<float>();
  queue.Enqueue([=] { return Exchange(Options(), 0, data, target); });
  in.Free();
  CHECK(queue.Synchronize().Has(Kind::kUseAfterFree));
}

TEST_CASE("two workers can use the device at once") {
  size_t reports[2] = {0, 0}, wrong[2] = {0, 0};
  const auto work = [&](size_t worker) {
    for (int turn = 0; turn < 30; ++turn) {
      Buffer in(512, "in"), out(512, "out");
      const std::vector<float> values(128, static_cast<float>(turn));
      std::vector<float> got(128);
      in.Upload(values.data());
      const bool bug = worker == 1;
      reports[worker] += Exchange(Options(), bug ? kNoBarrier : 0, in.as<float>(), out.as<float>())
                             .reports.empty() == bug;
      out.Download(got.data());
      wrong[worker] += !bug && got != values;
    }
  };
  std::thread first(work, 0), second(work, 1);
  first.join();
  second.join();
  CHECK(reports[0] + reports[1] == 0);
  CHECK(wrong[0] == 0);
}

}  // namespace lora::simt
