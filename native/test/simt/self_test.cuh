// Defines kernels that use every device primitive once; self_test.h says what they must give.
#pragma once

#include "backend/cuda/device/launch.h"
#include "test/simt/self_test.h"

namespace lora::device {

template <int Threads>
struct SelfTestParams {
  static constexpr int kThreads = Threads, kMinBlocks = 1;
  const uint32_t* in;
  uint32_t* out;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(32, 1) SelfTestLoadMatrix(SelfTestParams<32> p) {
  LORA_DYNAMIC_SHARED(shared);
  const int lane = LaneIndex();
  // Row i of shared memory holds row (5·i) % 32 of the input, so that a kernel that assumes
  // addresses instead of asking the lanes for them fails.
  const int row = lane * 5 % 32;
  for (int j = 0; j < 4; ++j) reinterpret_cast<uint32_t*>(shared)[lane * 4 + j] = p.in[row * 4 + j];
  SyncWarp();
  const unsigned char* address = shared + lane * 13 % 32 * 16;  // 5·13 = 1 (mod 32)
  uint32_t four[4], two[2];
  const auto store = [&](int variant, const uint32_t* r, int count) {
    for (int i = 0; i < 4; ++i) p.out[(variant * 32 + lane) * 4 + i] = i < count ? r[i] : 0;
  };
  LoadMatrixX4(four, address);
  store(0, four, 4);
  LoadMatrixX4Trans(four, address);
  store(1, four, 4);
  LoadMatrixX2(two, address);
  store(2, two, 2);
  LoadMatrixX2Trans(two, address);
  store(3, two, 2);
}

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(32, 1) SelfTestMma(SelfTestParams<32> p) {
  // PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type".
  const int group = LaneIndex() >> 2, in_group = LaneIndex() % 4;
  const T* a = reinterpret_cast<const T*>(p.in);
  const T* b = a + 256;
  const float* c = reinterpret_cast<const float*>(p.in + 192);
  T fragment_a[8], fragment_b[4];
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    fragment_a[i] = a[row * 16 + in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)];
  }
  for (int i = 0; i < 4; ++i)
    fragment_b[i] = b[(in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)) * 8 + group];
  uint32_t words_a[4], words_b[2];
  for (int i = 0; i < 4; ++i) words_a[i] = Pack(fragment_a[2 * i], fragment_a[2 * i + 1]);
  for (int i = 0; i < 2; ++i) words_b[i] = Pack(fragment_b[2 * i], fragment_b[2 * i + 1]);
  const auto at = [&](int i) { return (i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1); };
  float acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = c[at(i)];
  MmaM16N8K16<T>(acc, words_a, words_b);
  for (int i = 0; i < 4; ++i) reinterpret_cast<float*>(p.out)[at(i)] = acc[i];
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, 1) SelfTestExchange(SelfTestParams<128> p) {
  LORA_DYNAMIC_SHARED(shared);
  GridDependencyWait();
  uint32_t* words = reinterpret_cast<uint32_t*>(shared);
  uint32_t* vectors = words + 128;
  const int t = ThreadIndex(), lane = LaneIndex();
  const uint32_t own = p.in[t];
  Vec16 o[4];
  o[0].words[0] = Shuffle(own, (lane * 3 + 1) % 32);
  o[0].words[1] = ShuffleXor(own, 9);
  o[0].words[2] = ShuffleDown(own, 5);
  words[t] = own;
  SyncWarp();
  o[0].words[3] = words[t ^ 5];
  StoreShared16(vectors + t * 4, Vec16{{own, own + 1, own + 2, own + 3}});
  SyncThreads();
  o[1].words[1] = LoadShared16(vectors + (t + 1) % 128 * 4).words[2];
  SyncThreads();
  if (WarpIndex() < 2) {
    words[t] = own;
    BarrierArrive<1>(128);
    o[1].words[0] = 0;
  } else {
    BarrierSync<1>(128);
    o[1].words[0] = words[(t - 64) ^ 33];
  }
  const Vec16 streamed = LoadGlobalStream16(p.in + t / 4 * 4);
  const Vec16 loaded = LoadGlobal16(p.in + t / 4 * 4);
  o[1].words[2] = o[1].words[3] = 0;
  LORA_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (i == t % 4) {
      o[1].words[2] = streamed.words[i];
      o[1].words[3] = loaded.words[i];
    }
  }
  o[2].words[0] = static_cast<uint32_t>(BlockThreads() << 16 | GridX() << 8 | BlockX());
  o[2].words[1] = static_cast<uint32_t>(GridY() << 8 | GridZ());
  o[2].words[2] = static_cast<uint32_t>(BlockY() << 8 | BlockZ());
  o[2].words[3] = static_cast<uint32_t>(t);
  const Vec8 streamed8 = LoadGlobalStream8(p.in + t / 2 * 2);
  const Vec8 loaded8 = LoadGlobal8(p.in + t / 2 * 2);
  o[3] = {{t % 2 == 0 ? streamed8.words[0] : streamed8.words[1],
           t % 2 == 0 ? loaded8.words[0] : loaded8.words[1], 0, 0}};
  for (int i = 0; i < 4; ++i) StoreGlobal16(p.out + (BlockX() * 128 + t) * 16 + i * 4, o[i]);
  GridLaunchDependents();
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, 1) SelfTestCopies(SelfTestParams<128> p) {
  LORA_DYNAMIC_SHARED(shared);
  const int t = ThreadIndex();
  const unsigned char* in = reinterpret_cast<const unsigned char*>(p.in);
  unsigned char* sixteen = shared + t * 16;
  unsigned char* eight = shared + 2048 + t * 8;
  unsigned char* four = shared + 3072 + t * 4;
  CopyAsync<16>(sixteen, in + t * 16, t % 17);
  CopyAsync<8>(eight, in + t * 8, t % 9);
  CopyAsyncCommit();
  CopyAsync<4>(four, in + t * 4, t % 5);
  CopyAsyncCommit();
  CopyAsyncWait<1>();  // a thread sees its own copies without a barrier
  for (int i = 0; i < 4; ++i) p.out[t * 12 + i] = reinterpret_cast<uint32_t*>(sixteen)[i];
  for (int i = 0; i < 2; ++i) p.out[t * 12 + 4 + i] = reinterpret_cast<uint32_t*>(eight)[i];
  CopyAsyncWait<0>();
  p.out[t * 12 + 6] = *reinterpret_cast<uint32_t*>(four);
  CopyGlobal(p.out + t * 12 + 7, p.in + t);
  CopyGlobal(reinterpret_cast<Vec16*>(p.out + t * 12 + 8),
             reinterpret_cast<const Vec16*>(p.in) + t);
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, 1) SelfTestConversions(SelfTestParams<128> p) {
  const int t = ThreadIndex();
  const float f = reinterpret_cast<const float*>(p.in)[t];
  const BF16 bf16 = FromFloat<BF16>(f);
  const F16 f16 = FromFloat<F16>(f);
  p.out[t * 6] = bf16.bits;
  p.out[t * 6 + 1] = f16.bits;
  float* out = reinterpret_cast<float*>(p.out);
  out[t * 6 + 2] = ToFloat(bf16);
  out[t * 6 + 3] = ToFloat(f16);
  p.out[t * 6 + 4] = RoundPair<BF16>(f, static_cast<float>(t));
  p.out[t * 6 + 5] = RoundPair<F16>(f, static_cast<float>(t));
}

// These functions are allowed to err; they are held against double, and against exact values.
LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, 1) SelfTestMath(SelfTestParams<128> p) {
  const int t = ThreadIndex();
  const float x = BitsToFloat(p.in[t]), nan = BitsToFloat(p.in[128]), inf = BitsToFloat(p.in[129]);
  const float two = static_cast<float>(BlockThreads() / 64), one = two - 1;
  // One ulp is at most 2⁻²³ of a float; below the normal numbers a result may be 0.
  const auto off = [](double got, double want, double ulps) {
    const double error = got > want ? got - want : want - got;
    return !(error <= ulps * 1.1920929e-7 * (want > 0 ? want : -want) + 1.2e-38);
  };
  uint32_t bad = off(Exp2(x), Exp(0.69314718055994531 * x), 2) ? 1u : 0u;
  bad |= off(Exp(x), Exp(static_cast<double>(x)), 2) ? 2u : 0u;
  bad |= off(Log(x * x), Log(static_cast<double>(x * x)), 2) && x != 0 ? 4u : 0u;
  bad |= off(Log(Exp(static_cast<double>(x))), x, 1e-3) ? 8u : 0u;
  bad |= Exp2(one - one) != 1 || Exp2(-inf) != 0 || Exp2(inf) != inf ? 16u : 0u;
  bad |= Exp(one - one) != 1 || Exp(static_cast<double>(-inf)) != 0 || Log(one) != 0 ? 32u : 0u;
  bad |= Larger(nan, two) != 2 || Larger(two, nan) != 2 || Larger(-inf, x) != x ? 64u : 0u;
  bad |= Sqrt(two * two) != 2 || Sqrt(static_cast<double>(two) / 2) != 1 ? 128u : 0u;
  // (1 + 2⁻¹²)² − 1 − 2⁻¹¹ is 2⁻²⁴, which a product that was rounded has lost.
  const float h = one + one / 4096;
  bad |= Fma(h, h, -one - one / 2048) != one / 16777216 ? 256u : 0u;
  const double d = one + one / 1073741824.0;
  bad |= MulRounded(d, d) - (1 + one / 536870912.0) != 0 ? 512u : 0u;
  bad |= Fma(d, d, -(1 + one / 536870912.0)) != one / 1152921504606846976.0 ? 1024u : 0u;
  bad |= MulRounded(h, h) - (one + one / 2048) != 0 ? 2048u : 0u;
  p.out[t] = bad;
}

constexpr int kArrivalParts = kArrivalTiles * 128;
constexpr int kArrivalCounters = kArrivalParts + kArrivalTiles * kArrivalBlocks * 128;

LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, 1) SelfTestClearCounters(SelfTestParams<128> p) {
  const int t = ThreadIndex();
  if (t < static_cast<int>(kArrivalTiles)) p.out[kArrivalCounters + t] = 0;
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, 1) SelfTestArrivals(SelfTestParams<128> p) {
  LORA_DYNAMIC_SHARED(shared);
  uint32_t* last = reinterpret_cast<uint32_t*>(shared);
  const int t = ThreadIndex(), tiles = kArrivalTiles, tile = BlockX() % tiles;
  uint32_t* parts = p.out + kArrivalParts;
  parts[BlockX() * 128 + t] = p.in[t] * static_cast<uint32_t>(BlockX() + 1);
  SyncThreads();
  if (t == 0) *last = LastToArrive(p.out + kArrivalCounters + tile, kArrivalBlocks) ? 1 : 0;
  SyncThreads();
  if (*last == 0) return;
  uint32_t sum = 0;
  for (int block = tile; block < GridX(); block += tiles) sum += parts[block * 128 + t];
  p.out[tile * 128 + t] = sum;
}

// in and out are device memory.
inline LaunchError LaunchSelfTest(SelfTest test, const uint32_t* in, uint32_t* out, Stream stream) {
  LaunchShape shape;
  switch (test) {
    case SelfTest::kLoadMatrix:
      shape.shared_bytes = 512;
      return Launch<SelfTestLoadMatrix>(shape, stream, SelfTestParams<32>{in, out});
    case SelfTest::kMmaBF16:
      return Launch<SelfTestMma<BF16>>(shape, stream, SelfTestParams<32>{in, out});
    case SelfTest::kMmaF16:
      return Launch<SelfTestMma<F16>>(shape, stream, SelfTestParams<32>{in, out});
    case SelfTest::kExchange:
      shape.grid_x = 2;
      shape.shared_bytes = 512 + 2048;
      return Launch<SelfTestExchange>(shape, stream, SelfTestParams<128>{in, out});
    case SelfTest::kCopies:
      shape.shared_bytes = 2048 + 1024 + 512;
      return Launch<SelfTestCopies>(shape, stream, SelfTestParams<128>{in, out});
    case SelfTest::kConversions:
      return Launch<SelfTestConversions>(shape, stream, SelfTestParams<128>{in, out});
    case SelfTest::kArrivals:
      if (const LaunchError error =
              Launch<SelfTestClearCounters>(shape, stream, SelfTestParams<128>{in, out}))
        return error;
      shape.grid_x = kArrivalTiles * kArrivalBlocks;
      shape.shared_bytes = 4;
      return Launch<SelfTestArrivals>(shape, stream, SelfTestParams<128>{in, out});
    default:
      return Launch<SelfTestMath>(shape, stream, SelfTestParams<128>{in, out});
  }
}

}  // namespace lora::device
