// Emulates ldmatrix and mma.sync by the fragment layouts of the PTX manual.
// self_test.h holds them to plain formulas; how sums are rounded is in tensor_core.cc.
#include <array>
#include <cstring>

#include "backend/cuda/device/primitives.h"
#include "simt/state.h"
#include "simt/tensor_core.h"

namespace lora::device {
namespace {

using simt::Kind;
using simt::Site;
using simt::SiteOf;
using simt::world;

// Converts f16 → f32 by table, because the library would need a call for each of 384 elements of a
// product.
const float* HalfTable() {
  static const float* const table = [] {
    float* const t = new float[65536];
    for (uint32_t i = 0; i < 65536; ++i) t[i] = F32FromF16(static_cast<uint16_t>(i));
    return t;
  }();
  return table;
}

// Eight rows of 16 bytes are read at once when they touch each group of four banks once; rows of
// the same address share a pass.
void CountWavefronts(const std::array<uint32_t, 8>& rows) {
  std::array<uint32_t, 8> distinct{};
  uint32_t most = 0;
  for (size_t i = 0; i < 8; ++i) {
    bool repeated = false;
    for (size_t j = 0; j < i; ++j) repeated |= rows[j] == rows[i];
    if (!repeated) most = std::max(most, ++distinct[rows[i] / 16 % 8]);
  }
  ++world.result.ldmatrix_phases;
  world.result.ldmatrix_wavefronts += most;
}

}  // namespace

void LoadMatrix(uint32_t* r, int matrices, const void* row, bool transposed, Loc loc) {
  const simt::Inside inside;
  struct Arg {
    uint32_t* r;
    const void* row;
  } arg{r, row};
  const char* call = transposed ? "ldmatrix.trans" : "ldmatrix";
  simt::Collective(call, loc, &arg, [&](simt::Meeting& meeting) {
    const Site site = SiteOf(loc);
    uint16_t m[4][8][8];
    const int self = world.current, first = self / 32 * 32;
    for (int i = 0; i < matrices; ++i) {
      std::array<uint32_t, 8> offsets;
      for (int j = 0; j < 8; ++j) {
        const void* p = static_cast<Arg*>(meeting.args[i * 8 + j])->row;
        world.current = first + i * 8 + j;  // the lane whose address it is
        if (!world.InShared(p))
          simt::Fatal(Kind::kHostPointer, "ldmatrix at %a of memory that is not shared", site);
        simt::CheckShared(p, 16, simt::Access::kRead, site);
        std::memcpy(m[i][j], p, 16);
        offsets[static_cast<size_t>(j)] =
            static_cast<uint32_t>(static_cast<const unsigned char*>(p) - world.shared);
      }
      CountWavefronts(offsets);
    }
    world.current = self;
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, c = lane % 4 * 2;
      for (int i = 0; i < matrices; ++i) {
        const uint32_t low = transposed ? m[i][c][g] : m[i][g][c];
        const uint32_t high = transposed ? m[i][c + 1][g] : m[i][g][c + 1];
        static_cast<Arg*>(meeting.args[lane])->r[i] = low | high << 16;
      }
    }
  });
}

void Mma(float* d, const uint32_t* a, const uint32_t* b, bool bf16, Loc loc) {
  const simt::Inside inside;
  struct Arg {
    float* d;
    const uint32_t *a, *b;
  } arg{d, a, b};
  for (int i = 0; i < 4; ++i) {
    simt::CheckRegister(std::bit_cast<uint32_t>(d[i]), "the accumulator of mma", SiteOf(loc));
    simt::CheckRegister(a[i], "the first operand of mma", SiteOf(loc));
    if (i < 2) simt::CheckRegister(b[i], "the second operand of mma", SiteOf(loc));
  }
  simt::Collective("mma.sync", loc, &arg, [&](simt::Meeting& meeting) {
    float x[16][16], y[16][8], z[16][8];
    const float* half = bf16 ? nullptr : HalfTable();
    const auto halves = [half](uint32_t word, float& low, float& high) {
      low = half ? half[word & 0xffff] : std::bit_cast<float>(word << 16);
      high = half ? half[word >> 16] : std::bit_cast<float>(word & 0xffff0000);
    };
    for (int lane = 0; lane < 32; ++lane) {
      const Arg& in = *static_cast<Arg*>(meeting.args[lane]);
      const int g = lane / 4, c = lane % 4 * 2;
      // a0 (g, c), a1 (g + 8, c), a2 (g, c + 8), a3 (g + 8, c + 8); b0 (c, g), b1 (c + 8, g).
      for (int i = 0; i < 4; ++i) {
        const int row = g + i % 2 * 8, k = c + i / 2 * 8;
        halves(in.a[i], x[row][k], x[row][k + 1]);
      }
      for (int i = 0; i < 2; ++i) halves(in.b[i], y[c + i * 8][g], y[c + i * 8 + 1][g]);
      for (int i = 0; i < 4; ++i) z[g + i / 2 * 8][c + i % 2] = in.d[i];
    }
    simt::MultiplyAdd(x, y, z, !bf16, world.options.numerics.tensor_core);
    for (int lane = 0; lane < 32; ++lane) {
      float* out = static_cast<Arg*>(meeting.args[lane])->d;
      const int g = lane / 4, c = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) out[i] = z[g + i / 2 * 8][c + i % 2];
    }
  });
}

}  // namespace lora::device
