#include "test/simt/offsets.h"

#include "backend/cuda/device/attention.cuh"

namespace lora::simt {
namespace {

device::AttentionShape ShapeOf(const AttentionSizes& sizes) {
  device::AttentionShape s{};
  s.batch = sizes.batch;
  s.queries = sizes.queries;
  s.q_heads = sizes.q_heads;
  s.kv_heads = sizes.kv_heads;
  s.group = sizes.q_heads / sizes.kv_heads;
  s.d = sizes.d;
  s.rows = s.queries * s.group;
  return s;
}

}  // namespace

int64_t QueryOffset(const AttentionSizes& sizes, int b, int kv_head, int row) {
  return ShapeOf(sizes).QueryOffset(b, kv_head, row);
}
int64_t KeyOffset(const AttentionSizes& sizes, int b, int kv_head, int key) {
  return ShapeOf(sizes).KeyOffset(b, kv_head, key);
}
int64_t LseOffset(const AttentionSizes& sizes, int b, int kv_head, int row) {
  return ShapeOf(sizes).LseOffset(b, kv_head, row);
}

}  // namespace lora::simt
