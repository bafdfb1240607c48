// The packed form of a matrix is a row-major copy.
#include <cstring>

#include "backend/reference/kernels.h"

namespace lora::reference {

void Run(const PackArgs& args, Scratch, Context&) {
  if (args.src.bytes() > 0) std::memcpy(args.dst, args.src.data, args.src.bytes());
}

void Run(const UnpackArgs& args, Scratch, Context&) {
  if (args.dst.bytes() > 0) std::memcpy(args.dst.data, args.src.data, args.dst.bytes());
}

}  // namespace lora::reference
