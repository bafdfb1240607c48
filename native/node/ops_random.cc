// Seeded random tensors.
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

Napi::Value Random(const Napi::CallbackInfo& info) {
  OpCall call(info, "random", "random");
  call.On(info[0]);
  const std::string kind = ParseString(info[1], "random", "kind");
  LORA_CHECK(kind == "uniform" || kind == "normal", "random",
             "expected kind to be uniform or normal but received \"", kind, "\"");
  RandomArgs args;
  args.kind = kind == "uniform" ? RandomKind::kUniform : RandomKind::kNormal;
  args.seed = static_cast<uint64_t>(ParseInteger(info[2], "random", "seed"));
  args.stream = static_cast<uint32_t>(ParseInteger(info[3], "random", "stream", 0, 0xffffffff));
  args.lo = ParseFloat(info[4], "random", "lo");
  args.hi = ParseFloat(info[5], "random", "hi");
  call.Out(&args.y, DType::kF32, ParseShape(info[6], "random"));
  call.Run(args);
  return call.Result();
}

}  // namespace

void RegisterRandomOps(Napi::Env env, Napi::Object exports) {
  Export<Random>(env, exports, "random");
}

}  // namespace lora::node
