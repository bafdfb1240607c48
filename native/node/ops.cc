// Exports a function for every op. The description of the op (core/ops/describe.h) says what the
// function takes and returns: rms_norm_forward is rmsNormForward(x, addend, weight, eps, offset,
// dtype, keepRstd) → [sum, y, rstd].
#include <vector>

#include "node/api.h"
#include "node/op_call.h"
#include "node/op_fields.h"

namespace lora::node {
namespace {

// Returns undefined, the only result, or an array of the results.
Napi::Value Answer(Napi::Env env, const std::vector<Napi::Value>& results) {
  if (results.empty()) return env.Undefined();
  if (results.size() == 1) return results[0];
  Napi::Array list = Napi::Array::New(env, results.size());
  for (uint32_t i = 0; i < results.size(); ++i) list.Set(i, results[i]);
  return list;
}

template <class Args>
Napi::Value CallOp(const Napi::CallbackInfo& info) {
  constexpr auto& op = kDescription<Args>;
  OpCall call(info, op.name, op.label);
  Values values(info);
  Args args{};
  TakeAll(call, values, op.fields, args);
  call.Run(args);
  std::vector<Napi::Value> results;
  ForEachField<Args>([&](const auto& field) { Give(call, field, args, results); });
  return Answer(info.Env(), results);
}

}  // namespace

void RegisterOps(Napi::Env env, Napi::Object exports) {
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) {
    Export<CallOp<Args>>(env, exports, JavaScriptName(kDescription<Args>.name).c_str());
  });
}

}  // namespace lora::node
