// Every tensor of an op's arguments, with how the op treats it.
#pragma once

#include "core/ops.h"
#include "core/stream.h"

namespace lora::test {

// f(TensorView&, Access) for each tensor, defined or not; f(PackedView&) for each frozen matrix.
template <class F>
void Visit(PackArgs& a, F f) {
  f(a.src, Access::kIn);
}
template <class F>
void Visit(UnpackArgs& a, F f) {
  f(a.src);
  f(a.dst, Access::kOut);
}
template <class F>
void Visit(std::vector<LoraBranch>& branches, F f) {
  for (LoraBranch& b : branches) {
    f(b.weight);
    f(b.bias, Access::kIn);
    f(b.a, Access::kIn);
    f(b.b, Access::kIn);
  }
}
template <class F>
void Visit(std::vector<TensorView>& tensors, Access access, F f) {
  for (TensorView& t : tensors) f(t, access);
}
template <class F>
void Visit(LoraLinearForwardArgs& a, F f) {
  f(a.x, Access::kIn);
  Visit(a.branches, f);
  Visit(a.y, Access::kOut, f);
  Visit(a.h, Access::kOut, f);
}
template <class F>
void Visit(LoraLinearBackwardArgs& a, F f) {
  f(a.x, Access::kIn);
  Visit(a.branches, f);
  Visit(a.g, Access::kIn, f);
  Visit(a.h, Access::kIn, f);
  f(a.dx, Access::kOut);
  Visit(a.da, Access::kOut, f);
  Visit(a.db, Access::kOut, f);
}
template <class F>
void Visit(EmbeddingArgs& a, F f) {
  f(a.weight);
  f(a.ids, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(RmsNormForwardArgs& a, F f) {
  f(a.x, Access::kIn);
  f(a.weight, Access::kIn);
  f(a.y, Access::kOut);
  f(a.rstd, Access::kOut);
}
template <class F>
void Visit(RmsNormBackwardArgs& a, F f) {
  for (TensorView* t : {&a.x, &a.weight, &a.rstd, &a.g}) f(*t, Access::kIn);
  f(a.dx, Access::kOut);
}
template <class F>
void Visit(RopeArgs& a, F f) {
  for (TensorView* t : {&a.x, &a.cos, &a.sin, &a.positions}) f(*t, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(AttentionForwardArgs& a, F f) {
  for (TensorView* t : {&a.q, &a.k, &a.v, &a.key_begin}) f(*t, Access::kIn);
  f(a.y, Access::kOut);
  f(a.lse, Access::kOut);
}
template <class F>
void Visit(AttentionBackwardArgs& a, F f) {
  for (TensorView* t : {&a.q, &a.k, &a.v, &a.key_begin, &a.y, &a.lse, &a.g}) f(*t, Access::kIn);
  for (TensorView* t : {&a.dq, &a.dk, &a.dv}) f(*t, Access::kOut);
}
template <class F>
void Visit(CacheAppendArgs& a, F f) {
  f(a.src, Access::kIn);
  f(a.cache, Access::kInOut);
}
template <class F>
void Visit(SwigluForwardArgs& a, F f) {
  f(a.gate, Access::kIn);
  f(a.up, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(SwigluBackwardArgs& a, F f) {
  for (TensorView* t : {&a.gate, &a.up, &a.g}) f(*t, Access::kIn);
  f(a.dgate, Access::kOut);
  f(a.dup, Access::kOut);
}
template <class F>
void Visit(CrossEntropyForwardArgs& a, F f) {
  f(a.logits, Access::kIn);
  f(a.labels, Access::kIn);
  for (TensorView* t : {&a.loss, &a.count, &a.lse}) f(*t, Access::kOut);
}
template <class F>
void Visit(CrossEntropyBackwardArgs& a, F f) {
  for (TensorView* t : {&a.logits, &a.labels, &a.lse, &a.g}) f(*t, Access::kIn);
  f(a.dlogits, Access::kOut);
}
template <class F>
void Visit(LinearCrossEntropyArgs& a, F f) {
  f(a.hidden, Access::kIn);
  f(a.weight);
  f(a.weight_bwd);
  f(a.labels, Access::kIn);
  for (TensorView* t : {&a.loss, &a.count, &a.d_hidden}) f(*t, Access::kOut);
}
template <class F>
void Visit(AdamWArgs& a, F f) {
  for (AdamWArgs::Segment& s : a.segments) {
    f(s.grad, Access::kIn);
    for (TensorView* t : {&s.param, &s.m, &s.v}) f(*t, Access::kUpdate);
  }
}
template <class F>
void Visit(GlobalNormArgs& a, F f) {
  Visit(a.tensors, Access::kIn, f);
  f(a.norm, Access::kOut);
}
template <class F>
void Visit(ClipByNormArgs& a, F f) {
  Visit(a.tensors, Access::kInOut, f);
  f(a.norm, Access::kIn);
}
template <class F>
void Visit(BinaryArgs& a, F f) {
  f(a.a, Access::kIn);
  f(a.b, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(UnaryArgs& a, F f) {
  f(a.x, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(UnaryBackwardArgs& a, F f) {
  f(a.x, Access::kIn);
  f(a.g, Access::kIn);
  f(a.dx, Access::kOut);
}
template <class F>
void Visit(ReduceSumArgs& a, F f) {
  f(a.x, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(AccumulateArgs& a, F f) {
  f(a.x, Access::kIn);
  f(a.y, Access::kInOut);
}
template <class F>
void Visit(FillArgs& a, F f) {
  f(a.y, Access::kOut);
}
template <class F>
void Visit(TransposeArgs& a, F f) {
  f(a.x, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(MatmulArgs& a, F f) {
  f(a.a, Access::kIn);
  f(a.b, Access::kIn);
  f(a.y, Access::kOut);
}
template <class F>
void Visit(RandomArgs& a, F f) {
  f(a.y, Access::kOut);
}
template <class F>
void Visit(SampleArgs& a, F f) {
  f(a.logits, Access::kIn);
  f(a.ids, Access::kOut);
}

}  // namespace lora::test
