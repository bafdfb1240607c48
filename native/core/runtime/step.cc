#include "core/runtime/step.h"

#include <new>
#include <utility>

#include "core/error.h"

namespace lora {
namespace {

FailurePtr FailedOperand(const Step& step) {
  for (const Operand& operand : step.operands)
    if (operand.access != Access::kOut && operand.status->failure) return operand.status->failure;
  return nullptr;
}

void Settle(const Step& step, const FailurePtr& failure) {
  for (const Operand& operand : step.operands) {
    if (operand.access == Access::kOut) operand.status->failure = failure;
    if (operand.access == Access::kInOut && failure) operand.status->failure = failure;
  }
  if (step.guard && failure) step.guard->Remember(failure);
}

}  // namespace

void ForgetHostCopies(const Step& step) {
  if (step.copies_from_host) return;
  for (const Operand& operand : step.operands)
    if (operand.access != Access::kIn && operand.status->host_copy)
      operand.status->host_copy->Forget();
}

FailurePtr MakeFailure(const Step& step, int64_t tag, std::string code, std::string op,
                       std::string message) {
  // A device reports late, so that what it reports may be of an earlier step.
  if (code == "ERR_DEVICE_LOST" && op != step.op)
    message += " (met by " + std::string(step.op) + ")";
  return std::make_shared<const Failure>(
      Failure{std::move(code), std::move(op), std::move(message), tag});
}

FailurePtr RunStep(const Step& step, int64_t tag, const std::function<void()>& work) {
  FailurePtr failure = FailedOperand(step);
  if (!failure) {
    ForgetHostCopies(step);
    try {
      work();
    } catch (const FailurePtr& inherited) {  // of a command on another device
      failure = inherited;
    } catch (const Error& error) {
      failure = MakeFailure(step, tag, error.code(), error.op(), error.what());
    } catch (const std::bad_alloc&) {
      failure = MakeFailure(step, tag, "ERR_OUT_OF_MEMORY", step.op,
                            '[' + std::string(step.op) + "] the system has no memory left");
    } catch (const std::exception& error) {
      failure = MakeFailure(step, tag, "ERR_UNSUPPORTED", step.op,
                            '[' + std::string(step.op) + "] failed: " + error.what());
    }
  }
  Settle(step, failure);
  return failure;
}

}  // namespace lora
