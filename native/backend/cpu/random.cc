#include "backend/cpu/random.h"

#include "backend/cpu/parallel.h"
#include "core/random.h"

namespace lora::cpu {

size_t RandomScratchBytes(const RandomArgs&, int) { return 0; }

void Random(const RandomArgs& args, Scratch, Context& context) {
  ForRange(context, static_cast<size_t>(args.y.numel()), kCostlyGrain, kLineElements,
           [&](size_t begin, size_t end) {
             RandomElements(args, static_cast<int64_t>(begin), static_cast<int64_t>(end),
                            args.y.as<float>() + begin);
           });
}

}  // namespace lora::cpu
