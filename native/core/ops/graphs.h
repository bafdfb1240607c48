// What a context may offer beside running ops: to keep work that it was given once and to give it
// to the device again in one call. The steps of a recorded program use it (core/runtime/steps.h).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace lora {

// Launches that a device keeps. It ends with the object, also while the device works on it.
class Graph {
 public:
  virtual ~Graph() = default;
};

class Graphs {
 public:
  using Work = std::function<void()>;
  virtual ~Graphs() = default;

  // What ops had the device do since the last call of this.
  struct Given {
    int launches = 0;
    bool waited = false;  // they waited for the device, or copied to it
  };
  virtual Given TakeGiven() = 0;

  // Calls `work`, ops on this context, and keeps from the device what they give it. Returns what
  // they would have launched, as bytes that are equal where the launches are; nothing where they
  // want more of the device than launches. Throws what `work` throws.
  virtual std::optional<std::string> Trace(const Work& work) = 0;
  // Returns a graph of what `work`, ops on this context, launches, which does not run. Null where
  // the ops want more than launches, and where the device makes no graph of them; both count as
  // refused (Activity).
  virtual std::unique_ptr<Graph> Capture(const Work& work) = 0;
  // Has the device do the work of a graph of this context, after what it was given before. Returns
  // false where the device refuses, having done nothing, and where it is lost.
  virtual bool Launch(Graph& graph) = 0;
};

}  // namespace lora
