// What the file of an op includes. It defines, in this namespace, the work and, where the op needs
// some, its scratch:
//   void Run(const FillArgs&, Scratch, Context&)
//   size_t ScratchBytes(const FillArgs&, int threads)
// or, where a plan costs more than a few divisions, PlannedCall PlanCall(const FillArgs&, int), and
// ends with the entry of the table, without which the backend does not link:
//   template PlannedCall Plan(const FillArgs&, int);
#pragma once

#include "core/ops/backend.h"

namespace lora::cuda {

struct Here;

template <class Args>
PlannedCall Plan(const Args& args, int threads) {
  return PlanIn(args, ThreadsIn<Here>{threads});
}

}  // namespace lora::cuda
