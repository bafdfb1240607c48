// Tests what a profile counts: the work of a call by its formula, and how often it ran.
#include "core/runtime/profile.h"

#include <doctest/doctest.h>

#include "core/runtime/stream.h"
#include "test/core/test_backend.h"

namespace lora {
namespace {

TensorView Sized(Shape shape, DType dtype = DType::kF32) {
  return TensorView(nullptr, dtype, shape);
}

LoraBranch Branch(int64_t in, int64_t out, int64_t r) {
  static const std::byte kSome{};
  LoraBranch branch;
  branch.weight = PackedView(&kSome, DType::kBF16, out, in);
  branch.up = Sized({out, r});
  branch.down = Sized({r, in});
  return branch;
}

TEST_CASE("the work of a layer: its products, its operands, its shape") {
  LoraLinearForwardArgs forward;
  forward.x = Sized({7, 5}, DType::kBF16);
  forward.branches = {Branch(5, 3, 2), Branch(5, 4, 2)};
  forward.y = {Sized({7, 3}, DType::kBF16), Sized({7, 4}, DType::kBF16)};
  const Work work = WorkOf(forward);
  CHECK(work.flops == 2 * 7 * (5 * 3 + 2 * (5 + 3)) + 2 * 7 * (5 * 4 + 2 * (5 + 4)));
  CHECK(work.bytes == 2 * (7 * 5 + 5 * 7 + 7 * 7) + 4 * 2 * (3 + 5 + 4 + 5));
  CHECK(work.shape == "bf16 7x5 -> 3+4");

  LoraLinearBackwardArgs backward;
  backward.branches = {Branch(5, 3, 2)};
  backward.g = {Sized({7, 3})};
  backward.dx = Sized({7, 5});
  CHECK(WorkOf(backward).flops == 2 * 7 * (3 * 5 + 3 * 2 + 2 * 5));
  backward.d_up = {Sized({3, 2})};
  backward.d_down = {Sized({2, 5})};
  CHECK(WorkOf(backward).flops == 2 * 7 * (3 * 5 + 2 * 3 * 2 + 2 * 2 * 5));
  backward.dx = {};
  CHECK(WorkOf(backward).flops == 2 * 7 * (2 * 3 * 2 + 2 * 5));
  // A u that is given is not computed, and one that is kept is.
  backward.u = {Sized({7, 2})};
  CHECK(WorkOf(backward).flops == 2 * 7 * (3 * 2 + 2 * 5));
  backward.u = backward.d_up = backward.d_down = {};
  backward.kept_u = {Sized({7, 2})};
  CHECK(WorkOf(backward).flops == 2 * 7 * 3 * 2);
}

TEST_CASE("the work of attention counts the pairs that a query sees") {
  AttentionForwardArgs args;
  args.q = Sized({2, 3, 4, 8});
  CHECK(WorkOf(args).flops == 2.0 * 2 * 8 * (1 + 2 + 3) * 8);
  args.window = 2;
  CHECK(WorkOf(args).flops == 2.0 * 2 * 8 * (1 + 2 + 2) * 8);
  args.key_end = Sized({2, 3});
  CHECK(WorkOf(args).flops == 2.0 * 2 * 8 * (2 + 3 + 2) * 8);
}

TEST_CASE("a transposed product multiplies over the other dimension; a sum multiplies nothing") {
  MatmulArgs product;
  product.a = Sized({6, 5});
  product.b = Sized({6, 4});
  product.y = Sized({5, 4});
  product.trans_a = true;
  CHECK(WorkOf(product).flops == 2 * 6 * 5 * 4);
  AccumulateArgs sum;
  sum.x = Sized({9});
  sum.y = Sized({9});
  CHECK(WorkOf(sum).flops == 0);
  CHECK(WorkOf(sum).bytes == 3 * 4 * 9);  // y is read and written
}

TEST_CASE("calls of one op and shape are one entry, which counts the runs") {
  Profile profile;
  WorkerStream stream(kBackend.create_context, 1);
  int ran = 0;
  const auto enqueue = [&](const char* shape) {
    PlannedCall call{16, [&](Scratch, Context&) { ++ran; }};
    call = profile.Timed(std::move(call), "test", {3, 4, shape});
    CHECK(call.scratch_bytes == 16);
    Command command;
    command.op = "test";
    command.run = call.run;
    stream.Enqueue(std::move(command));
  };
  enqueue("one");
  enqueue("two");
  enqueue("one");
  stream.Synchronize();
  CHECK(ran == 3);
  REQUIRE(profile.entries().size() == 2);
  const auto& entry = *profile.entries().begin()->second;
  CHECK(entry.work.shape == "one");
  CHECK(entry.work.flops == 3);
  CHECK(entry.calls == 2);
  CHECK(entry.nanoseconds >= 0);
}

}  // namespace
}  // namespace lora
