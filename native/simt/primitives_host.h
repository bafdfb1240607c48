// Declares the device primitives for the host compiler. They are the emulator's entry points, and
// each is told the kernel's file and line.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/maths/dtype.h"
#include "simt/location.h"

// Kernel code must be inlined into instrumented code, or the emulator does not see a
// store through a returned struct.
#define LORA_KERNEL
#define LORA_DEVICE inline __attribute__((always_inline))
#define LORA_HOST_DEVICE inline __attribute__((always_inline))
#define LORA_LAUNCH_BOUNDS(threads, min_blocks)
#define LORA_GRID_CONSTANT
#define LORA_UNROLL
#define LORA_ROLL
#define LORA_DYNAMIC_SHARED(name) unsigned char* const name = ::lora::device::DynamicShared()

namespace lora::device {

using simt::Loc;

int ThreadIndex();
int BlockThreads();
int BlockX();
int BlockY();
int BlockZ();
int GridX();
int GridY();
int GridZ();

unsigned char* DynamicShared();
uint32_t SharedAddress(const void* p, Loc loc = Loc::Here());

void SyncThreads(Loc loc = Loc::Here());
void SyncWarp(Loc loc = Loc::Here());
void NamedBarrier(int id, int threads, bool wait, Loc loc);
template <int Id>
void BarrierSync(int threads, Loc loc = Loc::Here()) {
  static_assert(Id > 0 && Id < 16);
  NamedBarrier(Id, threads, true, loc);
}
template <int Id>
void BarrierArrive(int threads, Loc loc = Loc::Here()) {
  static_assert(Id > 0 && Id < 16);
  NamedBarrier(Id, threads, false, loc);
}

bool LastToArrive(uint32_t* counter, int blocks, Loc loc = Loc::Here());

enum class ShuffleKind : uint8_t { kIndex, kXor, kDown };
uint32_t ShuffleBits(uint32_t bits, ShuffleKind kind, int operand, Loc loc);
template <class T>
T Shuffle(T value, int lane, Loc loc = Loc::Here()) {
  return std::bit_cast<T>(
      ShuffleBits(std::bit_cast<uint32_t>(value), ShuffleKind::kIndex, lane, loc));
}
template <class T>
T ShuffleXor(T value, int mask, Loc loc = Loc::Here()) {
  return std::bit_cast<T>(
      ShuffleBits(std::bit_cast<uint32_t>(value), ShuffleKind::kXor, mask, loc));
}
template <class T>
T ShuffleDown(T value, int delta, Loc loc = Loc::Here()) {
  return std::bit_cast<T>(
      ShuffleBits(std::bit_cast<uint32_t>(value), ShuffleKind::kDown, delta, loc));
}

Vec16 LoadGlobal16(const void* p, Loc loc = Loc::Here());
Vec16 LoadGlobalStream16(const void* p, Loc loc = Loc::Here());
Vec8 LoadGlobal8(const void* p, Loc loc = Loc::Here());
Vec8 LoadGlobalStream8(const void* p, Loc loc = Loc::Here());
void StoreGlobal16(void* p, const Vec16& v, Loc loc = Loc::Here());
void CopyGlobalBytes(void* to, const void* from, int bytes, Loc loc);
template <class T>
void CopyGlobal(T* to, const T* from, Loc loc = Loc::Here()) {
  CopyGlobalBytes(to, from, sizeof(T), loc);
}
Vec16 LoadShared16(const void* p, Loc loc = Loc::Here());
void StoreShared16(void* p, const Vec16& v, Loc loc = Loc::Here());

void CopyAsyncBytes(void* shared, const void* global, int bytes, int source_bytes, Loc loc);
template <int Bytes>
void CopyAsync(void* shared, const void* global, int source_bytes, Loc loc = Loc::Here()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  CopyAsyncBytes(shared, global, Bytes, source_bytes, loc);
}
void CopyAsyncCommit();
void CopyAsyncWaitGroups(int pending);
template <int Pending>
void CopyAsyncWait() {
  CopyAsyncWaitGroups(Pending);
}

void LoadMatrix(uint32_t* r, int matrices, const void* row, bool transposed, Loc loc);
inline void LoadMatrixX4(uint32_t (&r)[4], const void* row, Loc loc = Loc::Here()) {
  LoadMatrix(r, 4, row, false, loc);
}
inline void LoadMatrixX4Trans(uint32_t (&r)[4], const void* row, Loc loc = Loc::Here()) {
  LoadMatrix(r, 4, row, true, loc);
}
inline void LoadMatrixX2(uint32_t (&r)[2], const void* row, Loc loc = Loc::Here()) {
  LoadMatrix(r, 2, row, false, loc);
}
inline void LoadMatrixX2Trans(uint32_t (&r)[2], const void* row, Loc loc = Loc::Here()) {
  LoadMatrix(r, 2, row, true, loc);
}

void Mma(float* d, const uint32_t* a, const uint32_t* b, bool bf16, Loc loc);
template <class T>
void MmaM16N8K16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                 Loc loc = Loc::Here()) {
  Mma(d, a, b, std::is_same_v<T, BF16>, loc);
}

void GridDependencyWait();
void GridLaunchDependents();

inline float ToFloat(float v) { return v; }
inline float BitsToFloat(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t FloatToBits(float f) { return std::bit_cast<uint32_t>(f); }
inline float ToFloat(BF16 v) { return F32FromBF16(v.bits); }
inline float ToFloat(F16 v) { return F32FromF16(v.bits); }
inline double BitsToDouble(uint64_t bits) { return std::bit_cast<double>(bits); }
inline uint64_t DoubleToBits(double d) { return std::bit_cast<uint64_t>(d); }
inline float Sqrt(float f) { return std::sqrt(f); }
inline double Sqrt(double d) { return std::sqrt(d); }
// numerics.cc: within the ulps that CUDA states.
float Exp(float f);
double Exp(double d);
float Log(float f);
double Log(double d);
float Pow(float x, float y);
float Exp2(float f);
inline float Larger(float a, float b) { return std::fmax(a, b); }
inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline double Fma(double a, double b, double c) { return std::fma(a, b, c); }
// It is not joined with an addition, whatever the compiler would do (-ffp-contract).
template <class T>
T MulRounded(T a, T b) {
  volatile const T product = a * b;
  return product;
}
template <class T>
LORA_DEVICE T FromFloat(float f) {
  if constexpr (std::is_same_v<T, float>) {
    return f;
  } else if constexpr (std::is_same_v<T, BF16>) {
    return {BF16FromF32(f)};
  } else {
    return {F16FromF32(f)};
  }
}

template <class T>
uint32_t RoundPair(float low, float high) {
  return uint32_t{FromFloat<T>(low).bits} | uint32_t{FromFloat<T>(high).bits} << 16;
}

inline uint32_t SelectBytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = a | uint64_t{b} << 32;
  uint32_t selected = 0;
  for (int j = 0; j < 4; ++j)
    selected |= static_cast<uint32_t>(bytes >> (selector >> (4 * j) & 7u) * 8 & 0xffu) << (8 * j);
  return selected;
}
inline uint32_t FunnelShift(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((low | uint64_t{high} << 32) >> shift % 32);
}

}  // namespace lora::device
