// Rotates q and k [b, s, heads, dim]. With x1, x2 the first and the second `pairs` numbers of a
// head and cos, sin of its position:
//   y1 = x1·cos − x2·sin
//   y2 = x2·cos + x1·sin
// The inverse uses −sin. A thread takes 16 bytes of both halves and uses the same cos and sin for
// up to kHeads heads of a token. What is behind x2 is copied, 16 bytes a thread. y may be x.
//
// Where there are pages, k goes to its pool instead, and v to its own, bit for bit.
#pragma once

#include "backend/cuda/device/attention.cuh"
#include "backend/cuda/device/copy_elements.cuh"
#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

template <class T>
struct RopeParams {
  static constexpr int kThreads = 256, kMinBlocks = 3;
  static constexpr int kPerThread = 16 / sizeof(T), kHeads = 4;
  // Heads of each token. A group is kHeads of them, or what is left.
  struct Part {
    const T* x;
    T* y;  // [tokens, heads, dim], or a pool [pages, heads, kPageKeys, dim]
    int64_t heads;
    bool rotates, is_paged;
    LORA_HOST_DEVICE int64_t groups() const { return (heads + kHeads - 1) / kHeads; }
  };
  Part q, k, v;  // those without heads are absent
  const float *cos, *sin;
  const int32_t* positions;  // or null: offset + index in the sequence
  const int32_t* table;      // [batch, max_pages], or null
  const int32_t* lengths;    // [batch], with `table`: the last position is lengths[b] − 1
  const int32_t* starts;     // [batch], the rows of cos and sin that are of position 0, or null
  int64_t tokens, sequence, dim, pairs, offset, max_pages;
  float sign;  // of sin
  static LORA_HOST_DEVICE int64_t ChunksOf(int64_t n) { return (n + kPerThread - 1) / kPerThread; }
  LORA_HOST_DEVICE int64_t chunks() const { return ChunksOf(pairs) + ChunksOf(dim - 2 * pairs); }
  LORA_HOST_DEVICE int64_t groups() const { return q.groups() + k.groups() + v.groups(); }
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(RopeParams<T>::kThreads, RopeParams<T>::kMinBlocks)
    Rope(const LORA_GRID_CONSTANT RopeParams<T> p) {
  constexpr int kPerThread = RopeParams<T>::kPerThread, kHeads = RopeParams<T>::kHeads;
  const auto [place, chunk] = Divide(GlobalIndex<RopeParams<T>::kThreads>(), p.chunks());
  const auto [token, group_of_all] = Divide(place, p.groups());
  if (token >= p.tokens) return;
  int64_t group = group_of_all;
  typename RopeParams<T>::Part part = p.q;
  if (group >= p.q.groups()) {
    group -= p.q.groups();
    part = p.k;
    if (group >= p.k.groups()) {
      group -= p.k.groups();
      part = p.v;
    }
  }
  const auto [batch, index] = Divide(token, p.sequence);
  const int64_t position = p.table       ? p.lengths[batch] - p.sequence + index
                           : p.positions ? p.positions[token]
                                         : p.offset + index;
  // Where head 0 of the token lies in y, and how far behind it the next one.
  int64_t y_begin = token * part.heads * p.dim, y_step = p.dim;
  if (part.is_paged) {
    const int64_t page = p.table[batch * p.max_pages + position / kPageKeys];
    y_begin = (page * part.heads * kPageKeys + position % kPageKeys) * p.dim;
    y_step *= kPageKeys;
  }
  const int64_t turned = RopeParams<T>::ChunksOf(p.pairs);
  const bool is_behind = chunk >= turned;
  const int64_t first = (is_behind ? chunk - turned : chunk) * kPerThread;
  float cos[kPerThread], sin[kPerThread];
  const int64_t angles = position + (p.starts ? p.starts[batch] : 0);
  LoadElements(cos, p.cos, angles * p.pairs + first, (angles + 1) * p.pairs);
  LoadElements(sin, p.sin, angles * p.pairs + first, (angles + 1) * p.pairs);
  LORA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    const int64_t head = group * kHeads + h;
    if (head >= part.heads) return;
    const T* const x = part.x + (token * part.heads + head) * p.dim;
    T* const y = part.y + y_begin + head * y_step;
    if (is_behind) {
      CopyElements(y + 2 * p.pairs, x + 2 * p.pairs, first, p.dim - 2 * p.pairs);
      continue;
    }
    if (!part.rotates) {
      CopyElements(y, x, first, p.pairs);
      CopyElements(y + p.pairs, x + p.pairs, first, p.pairs);
      continue;
    }
    float x1[kPerThread], x2[kPerThread];
    LoadElements(x1, x, first, p.pairs);
    LoadElements(x2, x + p.pairs, first, p.pairs);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      const float s = sin[j] * p.sign, y1 = x1[j] * cos[j] - x2[j] * s;
      x2[j] = x2[j] * cos[j] + x1[j] * s;
      x1[j] = y1;
    }
    StoreElements(y, first, p.pairs, x1);
    StoreElements(y + p.pairs, first, p.pairs, x2);
  }
}

}  // namespace lora::device
