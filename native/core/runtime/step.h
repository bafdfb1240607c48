// A step is one call of an op on a stream's worker: what an ordinary command runs, and what a
// recorded program has many of (steps.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/ops/backend.h"
#include "core/runtime/status.h"

namespace lora {

// The status of a storage, and how a step treats that storage (core/ops/fields.h).
struct Operand {
  StatusPtr status;
  Access access = Access::kIn;
};

struct Step {
  const char* op = "";
  std::vector<Operand> operands;
  std::shared_ptr<Guard> guard;
  bool copies_from_host = false;  // `run` itself keeps the host copies of what it writes
  Scratch scratch;                // what `run` works on
  std::function<void(Scratch, Context&)> run;
};

FailurePtr MakeFailure(const Step& step, int64_t tag, std::string code, std::string op,
                       std::string message);

// Says that kernels are about to write what the step writes.
void ForgetHostCopies(const Step& step);

// Does the work of a step unless an operand has failed, and marks what the step writes. Returns the
// failure, of an operand or of the work, or null; nothing is thrown. `tag` is that of the call.
FailurePtr RunStep(const Step& step, int64_t tag, const std::function<void()>& work);

}  // namespace lora
