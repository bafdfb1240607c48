// Implements the device primitives as inline PTX. Nothing here runs without a GPU, so it is kept
// small and reviewed line by line. It uses volatile and a memory clobber wherever the order
// relative to other accesses matters.
#pragma once

#include <cuda_runtime.h>

#define LORA_KERNEL __global__
#define LORA_DEVICE __device__ __forceinline__
#define LORA_HOST_DEVICE __host__ __device__ __forceinline__
#define LORA_LAUNCH_BOUNDS(threads, min_blocks) __launch_bounds__(threads, min_blocks)
#define LORA_GRID_CONSTANT __grid_constant__
#define LORA_UNROLL _Pragma("unroll")
#define LORA_ROLL _Pragma("unroll 1")
#define LORA_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

namespace lora::device {

LORA_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
LORA_DEVICE int BlockThreads() { return static_cast<int>(blockDim.x); }
LORA_DEVICE int BlockX() { return static_cast<int>(blockIdx.x); }
LORA_DEVICE int BlockY() { return static_cast<int>(blockIdx.y); }
LORA_DEVICE int BlockZ() { return static_cast<int>(blockIdx.z); }
LORA_DEVICE int GridX() { return static_cast<int>(gridDim.x); }
LORA_DEVICE int GridY() { return static_cast<int>(gridDim.y); }
LORA_DEVICE int GridZ() { return static_cast<int>(gridDim.z); }

LORA_DEVICE uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

LORA_DEVICE void SyncThreads() { __syncthreads(); }
LORA_DEVICE void SyncWarp() { __syncwarp(); }
// Barriers 1 to 15 synchronize groups of whole warps. Ids are constants, because ptxas would
// otherwise reserve all 16.
template <int Id>
LORA_DEVICE void BarrierSync(int threads) {
  static_assert(Id > 0 && Id < 16);
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}
template <int Id>
LORA_DEVICE void BarrierArrive(int threads) {
  static_assert(Id > 0 && Id < 16);
  asm volatile("bar.arrive %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}

// One thread of each of `blocks` blocks calls this with the same counter, which is 0 before, and 0
// again after the last call. Only that one returns true. Then its thread sees what the other
// threads that called it saw or wrote before their calls. Barriers before and after hand that on
// from and to the other threads of a block. In a launch a counter serves once, and nothing else may
// touch it.
LORA_DEVICE bool LastToArrive(uint32_t* counter, int blocks) {
  const uint32_t most = static_cast<uint32_t>(blocks) - 1;
  uint32_t before;  // of an increment that wraps from `most` to 0
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(__cvta_generic_to_global(counter)), "r"(most)
               : "memory");
  return before == most;
}

// T is a 4-byte type: float, int32_t or uint32_t.
template <class T>
LORA_DEVICE T Shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <class T>
LORA_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
LORA_DEVICE T ShuffleDown(T value, int delta) {
  return __shfl_down_sync(0xffffffffu, value, delta);
}

LORA_DEVICE Vec16 LoadGlobal16(const void* p) { return *static_cast<const Vec16*>(p); }
// Loads non-coherently and does not keep the line in L1, so nothing may write the data
// during the launch.
LORA_DEVICE Vec16 LoadGlobalStream16(const void* p) {
  Vec16 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.words[0]), "=r"(v.words[1]), "=r"(v.words[2]), "=r"(v.words[3])
               : "l"(__cvta_generic_to_global(p)));
  return v;
}
LORA_DEVICE Vec8 LoadGlobal8(const void* p) { return *static_cast<const Vec8*>(p); }
LORA_DEVICE Vec8 LoadGlobalStream8(const void* p) {
  Vec8 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.words[0]), "=r"(v.words[1])
               : "l"(__cvta_generic_to_global(p)));
  return v;
}
LORA_DEVICE void StoreGlobal16(void* p, const Vec16& v) { *static_cast<Vec16*>(p) = v; }
// Copies bits without looking at them, so that some of them may be of memory that nothing wrote.
template <class T>
LORA_DEVICE void CopyGlobal(T* to, const T* from) {
  *to = *from;
}
LORA_DEVICE Vec16 LoadShared16(const void* p) { return *static_cast<const Vec16*>(p); }
LORA_DEVICE void StoreShared16(void* p, const Vec16& v) { *static_cast<Vec16*>(p) = v; }

// Copies `source_bytes` (0 to Bytes) from global to shared memory and fills the rest of Bytes with
// zeros. Both addresses must be multiples of Bytes, which is 4, 8 or 16. Only 16 bypasses L1.
template <int Bytes>
LORA_DEVICE void CopyAsync(void* shared, const void* global, int source_bytes) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(SharedAddress(shared)),
                 "l"(__cvta_generic_to_global(global)), "n"(Bytes), "r"(source_bytes)
                 : "memory");
  }
}
LORA_DEVICE void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most Pending of this thread's groups of copies have not arrived.
template <int Pending>
LORA_DEVICE void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Load 8×8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
LORA_DEVICE void LoadMatrixX4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}
LORA_DEVICE void LoadMatrixX4Trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}
// Does the same as X4 with the addresses of lanes 0 to 15; the others are not read.
LORA_DEVICE void LoadMatrixX2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
}
LORA_DEVICE void LoadMatrixX2Trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
}

// d += a·b as m16n8k16, with a row-major, b column-major and f32 accumulators. T is BF16 or F16.
template <class T>
LORA_DEVICE void MmaM16N8K16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
LORA_DEVICE void MmaM16N8K16<BF16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
LORA_DEVICE void MmaM16N8K16<F16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Returns four of the bytes of a (0 to 3) and b (4 to 7), the lowest first: the number of each is a
// digit of the selector.
LORA_DEVICE uint32_t SelectBytes(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}
// Returns the low word of low | high << 32, shifted to the right by shift % 32.
LORA_DEVICE uint32_t FunnelShift(uint32_t low, uint32_t high, uint32_t shift) {
  return __funnelshift_r(low, high, shift);
}

// Programmatic dependent launch. Below sm_90 these do nothing, because no launch is
// programmatic there.
LORA_DEVICE void GridDependencyWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
LORA_DEVICE void GridLaunchDependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

LORA_DEVICE float ToFloat(BF16 v) { return __uint_as_float(uint32_t{v.bits} << 16); }
LORA_DEVICE float ToFloat(F16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}
LORA_DEVICE float ToFloat(float v) { return v; }
LORA_DEVICE float BitsToFloat(uint32_t bits) { return __uint_as_float(bits); }
LORA_DEVICE uint32_t FloatToBits(float f) { return __float_as_uint(f); }
LORA_DEVICE double BitsToDouble(uint64_t bits) {
  return __longlong_as_double(static_cast<long long>(bits));
}
LORA_DEVICE uint64_t DoubleToBits(double d) {
  return static_cast<uint64_t>(__double_as_longlong(d));
}
// These round to nearest. exp and log err by at most 1 ulp.
LORA_DEVICE float Sqrt(float f) { return __fsqrt_rn(f); }
LORA_DEVICE double Sqrt(double d) { return __dsqrt_rn(d); }
LORA_DEVICE float Exp(float f) { return expf(f); }
LORA_DEVICE double Exp(double d) { return exp(d); }
LORA_DEVICE float Log(float f) { return logf(f); }
LORA_DEVICE double Log(double d) { return log(d); }
LORA_DEVICE float Pow(float x, float y) { return powf(x, y); }
// Returns 2^f within 2 ulp in one instruction; results below the normal numbers are 0.
LORA_DEVICE float Exp2(float f) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(f));
  return e;
}
// Returns the other argument where one of them is a NaN.
LORA_DEVICE float Larger(float a, float b) { return fmaxf(a, b); }
LORA_DEVICE float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LORA_DEVICE double Fma(double a, double b, double c) { return __fma_rn(a, b, c); }
// A product that is rounded by itself: no compiler fuses it with an addition.
LORA_DEVICE float MulRounded(float a, float b) { return __fmul_rn(a, b); }
LORA_DEVICE double MulRounded(double a, double b) { return __dmul_rn(a, b); }
template <class T>
LORA_DEVICE T FromFloat(float f);
template <>
LORA_DEVICE float FromFloat<float>(float f) {
  return f;
}
template <>
LORA_DEVICE BF16 FromFloat<BF16>(float f) {
  BF16 v;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
  return v;
}
template <>
LORA_DEVICE F16 FromFloat<F16>(float f) {
  F16 v;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
  return v;
}

// Returns Pack(FromFloat<T>(low), FromFloat<T>(high)) in one instruction.
template <class T>
LORA_DEVICE uint32_t RoundPair(float low, float high);
template <>
LORA_DEVICE uint32_t RoundPair<BF16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
LORA_DEVICE uint32_t RoundPair<F16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

}  // namespace lora::device
