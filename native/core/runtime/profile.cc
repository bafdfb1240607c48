#include "core/runtime/profile.h"

#include <chrono>

namespace lora {

PlannedCall Profile::Timed(PlannedCall call, const char* op, Work work) {
  std::shared_ptr<Entry>& entry = entries_[{op, work.shape}];
  if (!entry) {
    entry = std::make_shared<Entry>();
    entry->op = op;
    entry->work = std::move(work);
  }
  return {call.scratch_bytes,
          [run = std::move(call.run), entry](Scratch scratch, Context& context) {
            using Clock = std::chrono::steady_clock;
            const Clock::time_point start = Clock::now();
            run(scratch, context);
            context.Finish();
            const std::chrono::nanoseconds taken = Clock::now() - start;
            entry->calls.fetch_add(1, std::memory_order_relaxed);
            entry->nanoseconds.fetch_add(taken.count(), std::memory_order_relaxed);
          }};
}

}  // namespace lora
