// pack(), which makes a frozen matrix, and release(), which drops either kind of reference.
#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

Napi::Value Pack(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const TensorRef tensor = state.Tensor(info[0], "pack", "weight");
  const TensorView src = tensor.view();
  StoragePtr packed = PackInto(state, tensor.storage->device(), src, tensor.storage->status(),
                               Direction::kForward, "pack");
  auto shell = std::make_unique<Shell>();
  shell->kind = Kind::kWeight;
  shell->weight = std::make_shared<WeightRef>(
      WeightRef{std::move(packed), nullptr, src.dtype, src.dim(0), src.dim(1)});
  return state.Wrap(std::move(shell));
}

Napi::Value Release(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  Shell* shell = state.Find(info[0]);
  if (shell == nullptr || shell->kind != Kind::kWeight)
    shell = &state.Unwrap(info[0], Kind::kTensor, "release", "reference");
  state.Release(*shell);
  return info.Env().Undefined();
}

}  // namespace

void RegisterWeights(Napi::Env env, Napi::Object exports) {
  Export<Pack>(env, exports, "pack");
  Export<Release>(env, exports, "release");
}

}  // namespace lora::node
