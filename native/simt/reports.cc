#include <map>

#include "simt/banks.h"
#include "simt/state.h"

namespace lora::simt {
namespace {

// A broken kernel breaks in many places, of which the first tell enough.
constexpr size_t kMaxFindings = 20;

void Replace(std::string& text, const char* mark, const std::string& with) {
  for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark))
    text.replace(at, 2, with);
}

}  // namespace

const char* NameOf(Kind kind) {
  constexpr const char* kNames[] = {
      "race",          "cross-block",     "non-coherent",    "before-wait", "shared-bounds",
      "global-bounds", "use-after-free",  "register-bounds", "misaligned",  "uninit-shared",
      "uninit-global", "uninit-register", "async",           "divergence",  "arrival",
      "deadlock",      "host-pointer",    "launch",          "staging"};
  return kNames[static_cast<size_t>(kind)];
}

bool Result::Has(Kind kind) const {
  for (const Report& report : reports)
    if (report.kind == kind) return true;
  return false;
}

std::string Result::Text() const {
  std::string text;
  for (const Report& report : reports)
    text += std::string("[") + NameOf(report.kind) + "] " + report.text + "\n";
  return text;
}

double Result::WavefrontsPerPhase() const {
  return ldmatrix_phases
             ? static_cast<double>(ldmatrix_wavefronts) / static_cast<double>(ldmatrix_phases)
             : 0;
}

void Result::Add(const Result& later) {
  reports.insert(reports.end(), later.reports.begin(), later.reports.end());
  accesses += later.accesses;
  ldmatrix_phases += later.ldmatrix_phases;
  ldmatrix_wavefronts += later.ldmatrix_wavefronts;
  if (later.worst_bank_conflict <= worst_bank_conflict) return;
  worst_bank_conflict = later.worst_bank_conflict;
  worst_bank_place = later.worst_bank_place;
}

bool Fresh(Kind kind, Site a, Site b) {
  return world.findings.size() < kMaxFindings && world.seen.insert({kind, a, b}).second;
}

void Record(Kind kind, std::string text, Site a, Site b) {
  world.findings.push_back({kind, std::move(text), a, b});
}

void Fatal(Kind kind, std::string text, Site a, Site b) {
  Record(kind, Who() + ": " + text, a, b);
  world.fatal = true;
  LeaveLaunch();
}

std::string Who() {
  const Dim3& b = world.block_index;
  return "block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," + std::to_string(b.z) +
         ") thread " + std::to_string(world.current);
}

std::string Actor(uint32_t actor) {
  const uint32_t n = static_cast<uint32_t>(world.count);
  return actor < n ? "thread " + std::to_string(actor)
                   : "cp.async of thread " + std::to_string(actor - n);
}

Result Finish() {
  std::vector<Site> sites;
  for (const Finding& f : world.findings) {
    sites.push_back(f.a);
    sites.push_back(f.b);
  }
  const std::vector<std::string> places = Resolve(sites);
  for (size_t i = 0; i < world.findings.size(); ++i) {
    std::string text = world.findings[i].text;
    Replace(text, "%a", places[2 * i]);
    Replace(text, "%b", places[2 * i + 1]);
    world.result.reports.push_back({world.findings[i].kind, std::move(text)});
  }
  world.findings.clear();
  world.seen.clear();
  EndBanks(world.result);
  return std::move(world.result);
}

}  // namespace lora::simt
