#include "test/simt/layout_kernels.h"

#include "backend/cuda/device/launch.h"

namespace lora::simt {
namespace {

using namespace device;  // NOLINT: the code below is kernel code

LORA_KERNEL void LoadMatrixKernel(bool transposed, int matrices, const uint16_t* in,
                                  uint32_t* out) {
  LORA_DYNAMIC_SHARED(shared);
  const int lane = LaneIndex();
  // Row i of shared memory holds row (5·i) % 32 of the input: lanes must be asked for addresses,
  // not assumed.
  const int row = lane * 5 % 32;
  for (int j = 0; j < 8; ++j) reinterpret_cast<uint16_t*>(shared)[lane * 8 + j] = in[row * 8 + j];
  SyncWarp();
  const unsigned char* address = shared + lane * 13 % 32 * 16;  // 5·13 = 1 (mod 32)
  uint32_t r[4] = {0, 0, 0, 0}, pair[2];
  if (matrices == 4) {
    if (transposed) {
      LoadMatrixX4Trans(r, address);
    } else {
      LoadMatrixX4(r, address);
    }
  } else {
    if (transposed) {
      LoadMatrixX2Trans(pair, address);
    } else {
      LoadMatrixX2(pair, address);
    }
    r[0] = pair[0];
    r[1] = pair[1];
  }
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = r[i];
}

template <class T>
LORA_KERNEL void MmaKernel(const uint16_t* a, const uint16_t* b, const float* c, float* d) {
  // PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type".
  const int group = LaneIndex() >> 2, in_group = LaneIndex() % 4;
  const auto c_row = [&](int i) { return i < 2 ? group : group + 8; };
  const auto c_col = [&](int i) { return in_group * 2 + (i & 1); };
  T fragment_a[8], fragment_b[4];
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    const int col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    fragment_a[i].bits = a[row * 16 + col];
  }
  for (int i = 0; i < 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    fragment_b[i].bits = b[row * 8 + group];
  }
  uint32_t words_a[4], words_b[2];
  for (int i = 0; i < 4; ++i) words_a[i] = Pack(fragment_a[2 * i], fragment_a[2 * i + 1]);
  for (int i = 0; i < 2; ++i) words_b[i] = Pack(fragment_b[2 * i], fragment_b[2 * i + 1]);
  float acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = c[c_row(i) * 8 + c_col(i)];
  MmaM16N8K16<T>(acc, words_a, words_b);
  for (int i = 0; i < 4; ++i) d[c_row(i) * 8 + c_col(i)] = acc[i];
}

}  // namespace

Result LoadMatrixLayout(const Options& options, bool transposed, int matrices, const uint16_t* in,
                        uint32_t* out) {
  return Launch(options, LoadMatrixKernel, {}, {32}, 512, transposed, matrices, in, out);
}

Result MmaLayout(const Options& options, bool bf16, const uint16_t* a, const uint16_t* b,
                 const float* c, float* d) {
  return Launch(options, bf16 ? MmaKernel<BF16> : MmaKernel<F16>, {}, {32}, 0, a, b, c, d);
}

}  // namespace lora::simt
