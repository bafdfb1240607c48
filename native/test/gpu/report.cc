#include "test/gpu/report.h"

#include <cstdio>

namespace lora::test {

std::string Show(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string Report::Verdict(const Target& target, Mode mode,
                            const std::vector<Times>& times) const {
  const double time = times[static_cast<size_t>(target.row)].median;
  const auto judged = [&](double limit, bool met) {
    if (limit == 0 || !target.Counts(mode)) return "";
    return met ? ", met" : ", NOT met";
  };
  if (target.against >= 0) {
    const double ratio = time / times[static_cast<size_t>(target.against)].median;
    return Show("%.2f", ratio) + judged(target.most, ratio <= target.most);
  }
  const double share = target.bytes / (time * 1e-6) / bandwidth_;
  return Show("%.0f", 100 * share) + "%" + judged(target.least, share >= target.least);
}

void Report::Table(const std::string& shape, const std::string& what,
                   const std::vector<Rival>& rivals, const std::vector<Mode>& modes,
                   const std::vector<std::vector<Times>>& times,
                   const std::vector<Target>& targets) {
  std::printf("\n### %s, %s\n\n| |", what.c_str(), shape.c_str());
  for (const Mode mode : modes) std::printf(" %s |", mode.name());
  std::printf("\n|---|");
  for (size_t i = 0; i < modes.size(); ++i) std::printf("---|");
  for (size_t row = 0; row < rivals.size(); ++row) {
    std::printf("\n| %s |", rivals[row].name.c_str());
    for (size_t mode = 0; mode < modes.size(); ++mode) {
      const Times& t = times[mode][row];
      std::printf(" %.1f (%.1f–%.1f) |", t.median, t.lowest, t.highest);
      json_ += std::string(json_.empty() ? "" : ",\n") + R"( {"case": ")" + shape +
               R"(", "what": ")" + what + R"(", "who": ")" + rivals[row].name + R"(", "mode": ")" +
               modes[mode].name() + R"(", "us": )" + Show("%.3f", t.median) + R"(, "lowest": )" +
               Show("%.3f", t.lowest) + R"(, "highest": )" + Show("%.3f", t.highest) + "}";
    }
  }
  for (const Target& target : targets) {
    std::printf("\n| **%s** |", target.name.c_str());
    for (size_t mode = 0; mode < modes.size(); ++mode)
      std::printf(" %s |", Verdict(target, modes[mode], times[mode]).c_str());
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace lora::test
