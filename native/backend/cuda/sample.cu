#include <algorithm>
#include <cstddef>
#include <vector>

#include "backend/cuda/device/sample.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "core/maths/sampling.h"
#include "core/ops/element.h"

namespace lora::cuda {
namespace {

using device::LogitScan;
using device::RowState;

constexpr const char* kOp = "sample";
// A token needs a weight and an entry in a list. Scratch does not hold those of all rows of a large
// batch, because a group of rows fills a device.
constexpr size_t kTokenBytes = sizeof(double) + sizeof(int32_t);
constexpr size_t kMaxTokenBytes = size_t{96} << 20;
constexpr size_t kGroupRows = 256;

struct SamplePlan {
  int64_t rows, vocab;
  int64_t group;  // rows at once
  int64_t parts;  // of a row
  // Offsets in scratch.
  size_t scans = 0, row_scans = 0, weights = 0, lists = 0, bytes = 0;

  explicit SamplePlan(const SampleArgs& args)
      : rows(args.logits.dim(0)), vocab(args.logits.dim(1)) {
    const size_t row_bytes = static_cast<size_t>(vocab) * kTokenBytes;
    const size_t most = std::clamp<size_t>(kMaxTokenBytes / row_bytes, 1, kGroupRows);
    group = std::min(static_cast<int64_t>(most), rows);
    // The first vector of a row may begin up to 7 elements before it.
    parts = (vocab + 7 + device::kSamplePart - 1) / device::kSamplePart;
    const auto take = [&](size_t& place, size_t size) {
      place = bytes;
      bytes += (size + 255) / 256 * 256;
    };
    take(scans, static_cast<size_t>(group * parts) * sizeof(LogitScan));
    take(row_scans, static_cast<size_t>(rows) * sizeof(LogitScan));
    const auto tokens = static_cast<size_t>(group * vocab);
    take(weights, tokens * sizeof(double));
    take(lists, tokens * sizeof(int32_t));
  }
};

template <class T>
void LaunchRows(const SampleArgs& args, const SamplePlan& plan, int64_t first, int64_t rows,
                std::byte* scratch, Context& context) {
  const T* logits = Data<const T>(args.logits) + first * plan.vocab;
  auto* const scans = reinterpret_cast<LogitScan*>(scratch + plan.scans);
  auto* const row_scans = reinterpret_cast<LogitScan*>(scratch + plan.row_scans) + first;
  auto* const weights = reinterpret_cast<double*>(scratch + plan.weights);
  auto* const lists = reinterpret_cast<int32_t*>(scratch + plan.lists);
  int32_t* const ids = Data<int32_t>(args.ids) + first;
  const device::RowOptions options{Data<const float>(args.reals) + first * kSampleReals,
                                   Data<const int32_t>(args.wholes) + first * kSampleWholes};
  const auto parts = static_cast<int32_t>(plan.parts);

  device::LaunchShape shape = Blocks(rows, 1);
  shape.grid_y = static_cast<unsigned>(parts);
  Launch<device::SampleScan<T>>(kOp, context, shape,
                                device::SampleScanParams<T>{logits, plan.vocab, parts, scans});
  Launch<device::SampleWeights<T>>(
      kOp, context, shape,
      device::SampleWeightsParams<T>{logits, plan.vocab, parts, scans, row_scans, options, weights,
                                     ids});
  Launch<device::SampleDraw<T>>(
      kOp, context, Blocks(rows, 1),
      device::SampleDrawParams<T>{logits, weights, plan.vocab, lists, row_scans, options, ids});
}

template <class T>
std::vector<T> ReadAll(const TensorView& view, CudaContext& cuda) {
  std::vector<T> values(static_cast<size_t>(view.numel()));
  cuda.ReadNow(values.data(), view.data, values.size() * sizeof(T));
  return values;
}

// Draws the token that every backend that computes on the host would draw.
int32_t DrawOnHost(const SampleArgs& args, int64_t row, const RowSampling& sampling,
                   CudaContext& cuda) {
  const auto vocab = static_cast<size_t>(args.logits.dim(1));
  const size_t row_bytes = vocab * SizeOf(args.logits.dtype);
  std::vector<std::byte> raw(row_bytes);
  cuda.ReadNow(raw.data(), args.logits.as<const std::byte>() + static_cast<size_t>(row) * row_bytes,
               row_bytes);
  std::vector<float> logits(vocab);
  for (size_t i = 0; i < vocab; ++i)
    logits[i] = static_cast<float>(Load(args.logits.dtype, raw.data(), static_cast<int64_t>(i)));
  std::vector<std::byte> scratch(SampleRowScratchBytes(args.logits.dim(1)));
  return SampleRow(sampling, logits.data(), args.logits.dim(1), scratch);
}

}  // namespace

size_t ScratchBytes(const SampleArgs& args, int) { return SamplePlan(args).bytes; }

void Run(const SampleArgs& args, Scratch scratch, Context& context) {
  auto& cuda = static_cast<CudaContext&>(context);
  const SamplePlan plan(args);
  for (int64_t first = 0; first < plan.rows; first += plan.group) {
    const int64_t rows = std::min(plan.group, plan.rows - first);
    ForFloat(args.logits.dtype,
             [&]<class T>() { LaunchRows<T>(args, plan, first, rows, scratch.data(), context); });
  }
  if (plan.rows == 0) return;
  std::vector<LogitScan> scans(static_cast<size_t>(plan.rows), {0, 0, 0, RowState::kDrawn, 0});
  cuda.ReadNow(scans.data(), scratch.data() + plan.row_scans, scans.size() * sizeof(LogitScan));
  // What was read has the ids too, so that who reads them next need not wait for the device.
  std::vector<int32_t> ids;
  for (const LogitScan& scan : scans) ids.push_back(scan.id);
  const auto keep_ids = [&] {
    if (args.ids.host_copy)
      args.ids.host_copy->Wrote(args.ids.data, ids.data(), ids.size() * sizeof(int32_t));
  };
  const auto is_drawn = [](const LogitScan& scan) { return scan.state == RowState::kDrawn; };
  if (std::all_of(scans.begin(), scans.end(), is_drawn)) return keep_ids();
  const auto reals = ReadAll<float>(args.reals, cuda);
  const auto wholes = ReadAll<int32_t>(args.wholes, cuda);
  RequireRowSampling(reals.data(), wholes.data(), plan.rows);
  for (int64_t row = 0; row < plan.rows; ++row) {
    if (is_drawn(scans[static_cast<size_t>(row)])) continue;
    const RowSampling sampling = RowSamplingOf(reals.data(), wholes.data(), row);
    int32_t& id = ids[static_cast<size_t>(row)];
    id = DrawOnHost(args, row, sampling, cuda);
    cuda.Upload(Data<int32_t>(args.ids) + row, &id, sizeof id);
  }
  keep_ids();
}

template PlannedCall Plan(const SampleArgs&, int);
}  // namespace lora::cuda
