// The one header of the emulator that product code includes, when a host compiler compiles kernels:
// the device primitives and the launch that kernels are written on.
#pragma once

#include "simt/primitives_host.h"
#include "simt/queue.h"

namespace lora::simt {

// Queues kernel(params), with as many threads in a block as Params names.
template <class Params>
void EnqueueLaunch(Queue& queue, void (*kernel)(Params), Dim3 grid, size_t shared_bytes,
                   bool programmatic, const Params& params) {
  Options options = queue.options();
  options.programmatic = programmatic;
  queue.Enqueue([=] {
    // The limit is set when the work runs: hardware remembers with the launch what was allowed at
    // the call, and a later launch sets what it needs itself.
    if (shared_bytes > 48 * 1024)
      SetMaxDynamicShared(options.device, reinterpret_cast<const void*>(kernel), shared_bytes);
    return Launch(options, kernel, grid, {static_cast<unsigned>(Params::kThreads)}, shared_bytes,
                  params);
  });
}

}  // namespace lora::simt
