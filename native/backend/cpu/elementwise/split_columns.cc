// Copies the columns of x from Σ sizes[..i] on to parts[i], and back.
#include <algorithm>
#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

namespace lora::cpu {

void Run(const SplitColumnsArgs& args, Scratch, Context& context) {
  const size_t pitch = static_cast<size_t>(args.x.dim(1)) * SizeOf(args.x.dtype);
  ForRows(context, static_cast<size_t>(args.x.dim(0)), static_cast<size_t>(args.x.dim(1)),
          kCheapGrain, [&](size_t begin, size_t end) {
            for (size_t row = begin; row < end; ++row) {
              const std::byte* from = args.x.as<const std::byte>() + row * pitch;
              for (size_t i = 0; i < args.sizes.size(); ++i) {
                const size_t bytes = static_cast<size_t>(args.sizes[i]) * SizeOf(args.x.dtype);
                const TensorView& part = args.parts[i];
                if (part && bytes > 0) std::memcpy(part.as<std::byte>() + row * bytes, from, bytes);
                from += bytes;
              }
            }
          });
}

void Run(const JoinColumnsArgs& args, Scratch, Context& context) {
  const size_t size = SizeOf(args.y.dtype), pitch = static_cast<size_t>(args.y.dim(1)) * size;
  ForRows(context, static_cast<size_t>(args.y.dim(0)), static_cast<size_t>(args.y.dim(1)),
          kCheapGrain, [&](size_t begin, size_t end) {
            for (size_t row = begin; row < end; ++row) {
              std::byte* to = args.y.as<std::byte>() + row * pitch;
              for (size_t i = 0; i < args.sizes.size(); ++i) {
                const size_t bytes = static_cast<size_t>(args.sizes[i]) * size;
                const TensorView& part = args.parts[i];
                if (!part) {
                  std::fill_n(to, bytes, std::byte{0});
                } else if (bytes > 0) {
                  std::memcpy(to, part.as<const std::byte>() + row * bytes, bytes);
                }
                to += bytes;
              }
            }
          });
}

template PlannedCall Plan(const SplitColumnsArgs&, int);
template PlannedCall Plan(const JoinColumnsArgs&, int);
}  // namespace lora::cpu
