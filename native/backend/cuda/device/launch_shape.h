// The shape of a launch, apart from launch.h so that files without device code can include it.
#pragma once

#include <cstddef>

namespace lora::device {

struct LaunchShape {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  // Dynamic; launch.h sets it where all launches of a kernel have the same.
  size_t shared_bytes = 0;
  // Lets the launch start before the one before it has ended, on devices that can do that
  // (programmatic dependent launch). The rule:
  // - Every thread of the kernel calls GridDependencyWait, which the kernel's Params say:
  //     static constexpr bool kWaits = true;
  // - Before that it writes nothing, and reads nothing that launches write which may still run: the
  //   one before it, where that is programmatic the one before that, and so on.
  // - The launch before it belongs to the same call of an op, because no op knows what another one
  //   launches and writes.
  // The tests of every op hold the launches of their calls against the first and the last
  // (BrokenRule in launches.h), and the emulator reports what breaks the first two.
  bool programmatic = false;
};

}  // namespace lora::device
