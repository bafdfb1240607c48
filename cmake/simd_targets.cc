// Prints sets of instruction sets, as bits of Highway's, for cmake/highway.cmake. Of those that a
// build compiles: the ones that this CPU lacks; and all but its best and the floor.
#include <cinttypes>
#include <cstdio>

#include "hwy/highway.h"
#include "hwy/targets.h"

int main() {
  const int64_t usable = HWY_TARGETS & hwy::SupportedTargets();
  const int64_t best = usable & -usable;  // a lower bit is a better one
  std::printf("%" PRId64 ";%" PRId64, HWY_TARGETS & ~usable,
              HWY_TARGETS & ~(best | HWY_STATIC_TARGET));
}
