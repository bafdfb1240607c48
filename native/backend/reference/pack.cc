// The packed form of a matrix is a row-major copy, with its scales behind it.
#include <cstring>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {

void Run(const PackArgs& args, Scratch, Context&) {
  if (args.src.bytes() > 0) std::memcpy(args.dst, args.src.data, args.src.bytes());
  if (!args.scales || args.scales.bytes() == 0) return;
  std::memcpy(static_cast<std::byte*>(args.dst) + ScalesAt(args.format, args.rows, args.cols),
              args.scales.data, args.scales.bytes());
}

void Run(const UnpackArgs& args, Scratch, Context&) {
  // A copy keeps the bits of a NaN.
  if (args.src.format == FormatOf(args.dst.dtype)) {
    if (args.dst.bytes() > 0) std::memcpy(args.dst.data, args.src.data, args.dst.bytes());
    return;
  }
  for (int64_t i = 0; i < args.dst.numel(); ++i) Store(args.dst, i, Load(args.src, i));
}

template PlannedCall Plan(const PackArgs&, int);
template PlannedCall Plan(const UnpackArgs&, int);
}  // namespace lora::reference
