// The steps of a recorded program, and how they run: one after the other as commands do, or, where
// the context captures work (core/ops/graphs.h), many in one call of the device.
//
// The first run is ordinary, and tells which steps only launch. Consecutive ones are a piece. The
// next run captures each piece as a graph, and it and later runs launch the graphs. Steps between
// the pieces, which wait for the device, run as ever. What a step does with the host's copy of its
// operands (host_copy.h) a graph does not do: steps that look there are called again, before the
// graph is launched, with what they launch held back and compared with what the graph has.
//
// A piece runs as commands do, this time, where an operand has failed, where a step that looks at
// its data fails, or where it launches something else; for good, where it could not be captured or
// the device refused its graph. So a failure has the same marks and the same words either way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/ops/graphs.h"
#include "core/runtime/step.h"

namespace lora {

class Steps {
 public:
  std::vector<Step> steps;
  std::vector<StatusPtr> made;

  // Every run begins with good statuses of the storages that the steps make. A failure stays with
  // what depends on it; the other steps run. `context` may throw, which fails the step.
  void Run(int64_t tag, const std::function<Context&()>& context);

 private:
  struct Looking {
    size_t step;           // that looks at what the host knows
    std::string launches;  // in the graph
  };
  struct Piece {
    size_t first = 0, end = 0;
    std::vector<StatusPtr> statuses;  // of all operands
    std::vector<Looking> looking;
    std::unique_ptr<Graph> graph;
    bool ordinary = false;  // for good
  };

  void RunSteps(size_t first, size_t end, int64_t tag, const std::function<Context&()>& context);
  void Watch(Graphs& graphs, int64_t tag, const std::function<Context&()>& context);
  // Returns false where the piece must run as commands do.
  bool RunGraph(Piece& piece, Graphs& graphs, Context& context);

  bool watched_ = false;  // a run has told the pieces
  std::vector<Piece> pieces_;
};

}  // namespace lora
