#include "core/runtime/steps.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <set>
#include <utility>

namespace lora {
namespace {

// A graph of one launch saves nothing.
constexpr int kLeastLaunches = 2;

// Returns null where nothing is captured, also where there is no context: each step says why.
Graphs* GraphsOf(const std::function<Context&()>& context) {
  try {
    return context().graphs();
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Returns how often the host's copy of each operand of a step was looked at.
std::vector<uint64_t> LooksAt(const Step& step) {
  std::vector<uint64_t> looks;
  for (const auto& [status, access] : step.operands)
    looks.push_back(status->host_copy ? status->host_copy->looks() : 0);
  return looks;
}

// What a step did in a run.
struct Seen {
  Graphs::Given given;
  std::set<StatusPtr> looked;  // the operands at whose host's copy it looked
};
Seen SeenOf(const Step& step, Graphs::Given given, const std::vector<uint64_t>& looks_before) {
  Seen seen{given, {}};
  const std::vector<uint64_t> looks = LooksAt(step);
  for (size_t i = 0; i < looks.size(); ++i)
    if (looks[i] != looks_before[i]) seen.looked.insert(step.operands[i].status);
  return seen;
}

// Tells whether a step writes a storage at whose host's copy others look.
bool WritesOneOf(const std::set<StatusPtr>& looked, const Step& step) {
  return std::any_of(step.operands.begin(), step.operands.end(), [&](const Operand& operand) {
    return operand.access != Access::kIn && looked.contains(operand.status);
  });
}

}  // namespace

void Steps::Run(int64_t tag, const std::function<Context&()>& context) {
  for (const StatusPtr& status : made) status->failure = nullptr;
  Graphs* const graphs = GraphsOf(context);
  if (graphs == nullptr) return RunSteps(0, steps.size(), tag, context);
  if (!watched_) return Watch(*graphs, tag, context);
  size_t done = 0;
  for (Piece& piece : pieces_) {
    RunSteps(done, piece.first, tag, context);
    if (!RunGraph(piece, *graphs, context())) RunSteps(piece.first, piece.end, tag, context);
    done = piece.end;
  }
  RunSteps(done, steps.size(), tag, context);
}

void Steps::RunSteps(size_t first, size_t end, int64_t tag,
                     const std::function<Context&()>& context) {
  for (size_t i = first; i < end; ++i)
    RunStep(steps[i], tag, [&] { steps[i].run(steps[i].scratch, context()); });
}

void Steps::Watch(Graphs& graphs, int64_t tag, const std::function<Context&()>& context) {
  std::vector<Seen> seen;
  bool good = true;
  for (const Step& step : steps) {
    const std::vector<uint64_t> looks = LooksAt(step);
    graphs.TakeGiven();
    const FailurePtr failure = RunStep(step, tag, [&] { step.run(step.scratch, context()); });
    good = good && !failure;
    seen.push_back(SeenOf(step, graphs.TakeGiven(), looks));
  }
  if (!good) return;  // a step that did not run tells nothing
  watched_ = true;
  for (size_t i = 0; i < steps.size();) {
    if (seen[i].given.waited) {
      ++i;
      continue;
    }
    Piece piece;
    piece.first = i;
    int launches = 0;
    std::set<StatusPtr> statuses, looked;
    // The capture looks after all checks, so that no step before its end may take the copies away.
    for (; i < steps.size() && !seen[i].given.waited && !WritesOneOf(looked, steps[i]); ++i) {
      launches += seen[i].given.launches;
      if (!seen[i].looked.empty()) piece.looking.push_back({i, ""});
      looked.insert(seen[i].looked.begin(), seen[i].looked.end());
      for (const Operand& operand : steps[i].operands) statuses.insert(operand.status);
    }
    piece.end = i;
    piece.statuses.assign(statuses.begin(), statuses.end());
    if (launches >= kLeastLaunches) pieces_.push_back(std::move(piece));
  }
}

bool Steps::RunGraph(Piece& piece, Graphs& graphs, Context& context) {
  if (piece.ordinary) return false;
  for (const StatusPtr& status : piece.statuses)
    if (status->failure) return false;
  const auto run = [&](size_t i) { steps[i].run(steps[i].scratch, context); };
  auto looking = piece.looking.begin();
  for (size_t i = piece.first; i < piece.end; ++i) {
    ForgetHostCopies(steps[i]);
    if (looking == piece.looking.end() || looking->step != i) continue;
    std::optional<std::string> launches;
    try {
      launches = graphs.Trace([&] { run(i); });
    } catch (...) {
      return false;  // the step throws it again
    }
    if (!launches || (piece.graph && *launches != looking->launches)) return false;
    looking->launches = std::move(*launches);
    ++looking;
  }
  if (!piece.graph)
    piece.graph = graphs.Capture([&] {
      for (size_t i = piece.first; i < piece.end; ++i) run(i);
    });
  if (piece.graph && graphs.Launch(*piece.graph)) return true;
  piece.graph.reset();
  piece.ordinary = true;
  return false;
}

}  // namespace lora
