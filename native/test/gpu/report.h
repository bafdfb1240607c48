// Writes what the benchmark says: tables in Markdown on the screen, and the same figures as JSON.
#pragma once

#include <string>
#include <vector>

#include "test/gpu/timing.h"

namespace lora::test {

// Says what a row of a table is held against: a time at most `most` times that of the rival
// `against`, or `bytes` at no less than `least` of the read bandwidth, in the mode that it is meant
// for or in all. Without a limit the figure is only shown.
struct Target {
  std::string name;
  int row = 0;
  int against = -1;
  double most = 0;
  double bytes = 0, least = 0;
  const Mode* only = nullptr;

  bool Counts(Mode mode) const {
    return only == nullptr || (only->graph == mode.graph && only->cold == mode.cold);
  }
};

// Formats one number as printf does.
std::string Show(const char* format, double value);

class Report {
 public:
  // Shares of the read bandwidth refer to `bandwidth`, in bytes per second.
  explicit Report(double bandwidth) : bandwidth_(bandwidth) {}

  // Prints a table of times[mode][rival], then the targets.
  void Table(const std::string& shape, const std::string& what, const std::vector<Rival>& rivals,
             const std::vector<Mode>& modes, const std::vector<std::vector<Times>>& times,
             const std::vector<Target>& targets);
  const std::string& json() const { return json_; }

 private:
  std::string Verdict(const Target& target, Mode mode, const std::vector<Times>& times) const;

  double bandwidth_;
  std::string json_;
};

}  // namespace lora::test
