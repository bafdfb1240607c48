#include "test/support/bench_problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace lora::test {
namespace {

uint64_t Hash(uint64_t n) {  // splitmix64
  n += 0x9e3779b97f4a7c15;
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9;
  n = (n ^ (n >> 27)) * 0x94d049bb133111eb;
  return n ^ (n >> 31);
}

// The values are nearly normal, because the power that a GPU draws, and so its clock, depends on
// them.
float Normal(uint64_t n) {
  const uint64_t bits = Hash(n);
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(bits >> 16 * i & 0xffff) / 65536 - 0.5f;
  return sum * 1.7320508f;  // four uniforms have a variance of 1/3
}

uint16_t Half(DType dtype, float value) {
  return dtype == DType::kBF16 ? BF16FromF32(value) : F16FromF32(value);
}

constexpr int kSamples = 64;

}  // namespace

std::string BenchShape::Name() const {
  std::ostringstream out;
  out << NameOf(dtype) << " M=" << m << ' ' << k << "→" << n << " r=" << r;
  return out.str();
}

double BenchProblem::Host::at(int64_t row, int64_t col) const {
  const auto i = static_cast<size_t>(row * cols + col);
  if (dtype == DType::kF32) return single[i];
  return dtype == DType::kBF16 ? F32FromBF16(half[i]) : F32FromF16(half[i]);
}

BenchProblem::Host BenchProblem::Random(DType dtype, int64_t rows, int64_t cols, uint64_t seed,
                                        double deviation) const {
  Host out{dtype, cols, {}, {}};
  const auto size = static_cast<size_t>(rows * cols);
  const auto scale = static_cast<float>(deviation);
  if (dtype == DType::kF32) {
    out.single.resize(size);
    for (size_t i = 0; i < size; ++i) out.single[i] = scale * Normal(seed << 40 | i);
  } else {
    out.half.resize(size);
    for (size_t i = 0; i < size; ++i) out.half[i] = Half(dtype, scale * Normal(seed << 40 | i));
  }
  return out;
}

BenchProblem::Host BenchProblem::Rounded(const Host& from) const {
  Host out{shape.dtype, from.cols, {}, {}};
  if (shape.dtype == DType::kF32) return from;
  for (const float value : from.single) out.half.push_back(Half(shape.dtype, value));
  return out;
}

void* BenchProblem::Allocate(size_t bytes) {
  void* data = gpu_.Allocate(std::max<size_t>(bytes, 1));
  if (data == nullptr) throw std::runtime_error("the device has too little memory for the case");
  blocks_.push_back(data);
  return data;
}

void* BenchProblem::Upload(const Host& matrix) {
  const void* from = matrix.dtype == DType::kF32 ? static_cast<const void*>(matrix.single.data())
                                                 : matrix.half.data();
  const size_t bytes = matrix.single.size() * 4 + matrix.half.size() * 2;
  void* data = Allocate(bytes);
  if (bytes > 0) gpu_.Upload(data, from, bytes);
  return data;
}

BenchProblem::Host BenchProblem::Download(const void* data, DType dtype, int64_t rows,
                                          int64_t cols) const {
  Host out{dtype, cols, {}, {}};
  const auto size = static_cast<size_t>(rows * cols);
  void* to;
  if (dtype == DType::kF32) {
    out.single.resize(size);
    to = out.single.data();
  } else {
    out.half.resize(size);
    to = out.half.data();
  }
  gpu_.Download(to, data, size * SizeOf(dtype));
  return out;
}

BenchProblem::BenchProblem(cuda::Gpu& gpu, const BenchShape& of) : shape(of), gpu_(gpu) {
  const auto [m, k, n, r, dtype, copies] = shape;
  const double by_k = 1 / std::sqrt(static_cast<double>(k));
  host_x_ = Random(dtype, m, k, 1, 1);
  host_w_ = Random(dtype, n, k, 2, by_k);
  host_a_ = Random(DType::kF32, n, r, 3, 1 / std::sqrt(std::max(1.0, static_cast<double>(r))));
  host_b_ = Random(DType::kF32, r, k, 4, by_k);
  host_g_ = Random(dtype, m, n, 5, 1);
  const auto size = static_cast<size_t>(SizeOf(dtype));
  const auto bytes = [](int64_t rows, int64_t cols, size_t element) {
    return static_cast<size_t>(rows * cols) * element;
  };
  x = Upload(host_x_);
  g = Upload(host_g_);
  for (int i = 0; i < copies; ++i)
    weights.push_back({Upload(host_w_), Upload(host_a_), Upload(host_b_), Upload(Rounded(host_a_)),
                       Upload(Rounded(host_b_))});
  y = Allocate(bytes(m, n, size));
  dx = Allocate(bytes(m, k, size));
  h = Allocate(bytes(m, r, 4));
  h_rounded = Allocate(bytes(m, r, size));
  u_rounded = Allocate(bytes(m, r, size));
  d_up = Allocate(bytes(n, r, 4));
  d_down = Allocate(bytes(r, k, 4));
  Poison();
}

BenchProblem::~BenchProblem() {
  for (void* block : blocks_) gpu_.Free(block);
}

void BenchProblem::Poison() {
  const auto [m, k, n, r, dtype, copies] = shape;
  const auto size = static_cast<int64_t>(SizeOf(dtype));
  const std::vector<std::byte> nan(
      static_cast<size_t>(std::max({m * n * size, m * k * size, n * r * 4, r * k * 4})),
      std::byte{0xff});
  gpu_.Upload(y, nan.data(), static_cast<size_t>(m * n * size));
  gpu_.Upload(dx, nan.data(), static_cast<size_t>(m * k * size));
  gpu_.Upload(d_up, nan.data(), static_cast<size_t>(n * r * 4));
  gpu_.Upload(d_down, nan.data(), static_cast<size_t>(r * k * 4));
}

LoraLinearForwardArgs BenchProblem::Forward(int copy, bool lora, bool with_h) const {
  const auto [m, k, n, r, dtype, copies] = shape;
  const Weights& of = weights[static_cast<size_t>(copy)];
  LoraBranch branch;
  branch.weight = {of.w, dtype, n, k};
  branch.scale = kScale;
  if (lora) {
    branch.up = TensorView(of.a, DType::kF32, {n, r});
    branch.down = TensorView(of.b, DType::kF32, {r, k});
  }
  LoraLinearForwardArgs args;
  args.x = TensorView(x, dtype, {m, k});
  args.branches = {branch};
  args.y = {TensorView(y, dtype, {m, n})};
  args.h = {lora && with_h ? TensorView(h, DType::kF32, {m, r}) : TensorView()};
  return args;
}

LoraLinearBackwardArgs BenchProblem::Backward(int copy, bool with_dx, bool with_gradients) const {
  const auto [m, k, n, r, dtype, copies] = shape;
  LoraLinearForwardArgs forward = Forward(copy, true, true);
  LoraLinearBackwardArgs args;
  args.branches = forward.branches;
  args.g = {TensorView(g, dtype, {m, n})};
  args.d_up = args.d_down = args.h = {TensorView()};
  if (with_gradients) {
    args.x = forward.x;
    args.h = forward.h;
    args.d_up = {TensorView(d_up, DType::kF32, {n, r})};
    args.d_down = {TensorView(d_down, DType::kF32, {r, k})};
  }
  if (with_dx) args.dx = TensorView(dx, dtype, {m, k});
  return args;
}

double BenchProblem::H(int64_t row, int64_t rank) const {
  double sum = 0;
  for (int64_t i = 0; i < shape.k; ++i) sum += host_x_.at(row, i) * host_b_.at(rank, i);
  return sum;
}
double BenchProblem::U(int64_t row, int64_t rank) const {
  double sum = 0;
  for (int64_t i = 0; i < shape.n; ++i) sum += host_g_.at(row, i) * host_a_.at(i, rank);
  return sum;
}

template <class F>
double BenchProblem::Error(const void* data, DType dtype, int64_t rows, int64_t cols,
                           int64_t some_rows, int64_t some_cols, const F& expected) const {
  const Host actual = Download(data, dtype, rows, cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j)
      if (!std::isfinite(actual.at(i, j))) return std::numeric_limits<double>::infinity();
  double error = 0, norm = 0;
  for (int sample = 0; sample < kSamples; ++sample) {
    // The corners come first.
    const auto pick = [&](int corner, uint64_t seed, int64_t size, int64_t some) {
      if (some < size) return static_cast<int64_t>(Hash(seed) % static_cast<uint64_t>(some));
      return sample < 4 ? (corner != 0 ? size - 1 : 0)
                        : static_cast<int64_t>(Hash(seed) % static_cast<uint64_t>(size));
    };
    const auto at = static_cast<uint64_t>(sample);
    const int64_t i = pick(sample & 1, 2 * at, rows, some_rows);
    const int64_t j = pick(sample & 2, 2 * at + 1, cols, some_cols);
    const double want = expected(i, j), off = actual.at(i, j) - want;
    error += off * off;
    norm += want * want;
  }
  return std::sqrt(error / norm);
}

double BenchProblem::YError(bool lora) const {
  return Error(y, shape.dtype, shape.m, shape.n, shape.m, shape.n, [&](int64_t i, int64_t j) {
    double sum = 0, low = 0;
    for (int64_t c = 0; c < shape.k; ++c) sum += host_x_.at(i, c) * host_w_.at(j, c);
    for (int64_t c = 0; lora && c < shape.r; ++c) low += H(i, c) * host_a_.at(j, c);
    return sum + kScale * low;
  });
}

double BenchProblem::DxError() const {
  return Error(dx, shape.dtype, shape.m, shape.k, shape.m, shape.k, [&](int64_t i, int64_t j) {
    double sum = 0, low = 0;
    for (int64_t c = 0; c < shape.n; ++c) sum += host_g_.at(i, c) * host_w_.at(c, j);
    for (int64_t c = 0; c < shape.r; ++c) low += U(i, c) * host_b_.at(c, j);
    return sum + kScale * low;
  });
}

// One column of up and one row of down are checked, as each needs a pass over the whole of x or g.
double BenchProblem::DaError() const {
  std::vector<double> column;
  for (int64_t i = 0; i < shape.m; ++i) column.push_back(H(i, 0));
  return Error(d_up, DType::kF32, shape.n, shape.r, shape.n, 1, [&](int64_t i, int64_t) {
    double sum = 0;
    for (int64_t c = 0; c < shape.m; ++c) sum += host_g_.at(c, i) * column[static_cast<size_t>(c)];
    return kScale * sum;
  });
}
double BenchProblem::DbError() const {
  std::vector<double> column;
  for (int64_t i = 0; i < shape.m; ++i) column.push_back(U(i, 0));
  return Error(d_down, DType::kF32, shape.r, shape.k, 1, shape.k, [&](int64_t, int64_t j) {
    double sum = 0;
    for (int64_t c = 0; c < shape.m; ++c) sum += column[static_cast<size_t>(c)] * host_x_.at(c, j);
    return kScale * sum;
  });
}

}  // namespace lora::test
