// Implements the part of doctest that the tests of the CUDA backend use, for machines that have a
// GPU and a compiler but no doctest (scripts/gpu-check). Where doctest is installed, it is used
// instead. Expressions are not taken apart: a failed CHECK shows its text and what was CAPTUREd.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <ostream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace doctest {

struct TestCase {
  const char* name;
  const char* file;
  int line;
  void (*run)();
};
// Thrown by REQUIRE: ends the test case.
struct Abort {};

struct State {
  std::vector<TestCase> cases;
  std::vector<const class Scope*> scopes;
  size_t checks = 0, failed_checks = 0;
  bool failed = false;  // the test case that runs
  // Subcases: one leaf is entered each time the test case runs, until all were.
  std::vector<std::string> path;
  std::set<std::vector<std::string>> done;
  bool left = false;  // a leaf was left in this run: no other may be entered
  bool more = false;  // something that is not done was passed by
};
inline State& TheState() {
  static State& state = *new State;
  return state;
}

inline int Register(const TestCase& test) {
  TheState().cases.push_back(test);
  return 0;
}

// Keeps what CAPTURE and INFO say, which becomes text only when a check fails.
class Scope {
 public:
  Scope() { TheState().scopes.push_back(this); }
  virtual ~Scope() { TheState().scopes.pop_back(); }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  virtual void Say(std::ostream& out) const = 0;
};
template <class F>
class ScopeOf final : public Scope {
 public:
  explicit ScopeOf(F say) : say_(std::move(say)) {}
  void Say(std::ostream& out) const override { say_(out); }

 private:
  F say_;
};

template <class T>
void Print(std::ostream& out, const T& value) {
  if constexpr (requires { out << value; })
    out << value;
  else
    out << "{?}";
}
template <class... Parts>
std::string Text(const Parts&... parts) {
  std::ostringstream out;
  out << std::boolalpha;
  (Print(out, parts), ...);
  return out.str();
}

inline void Fail(const char* file, int line, const char* what, const std::string& message) {
  State& state = TheState();
  ++state.failed_checks;
  state.failed = true;
  std::printf("%s:%d: ERROR: %s\n", file, line, what);
  if (!message.empty()) std::printf("  %s\n", message.c_str());
  for (const Scope* scope : state.scopes) {
    std::ostringstream out;
    scope->Say(out);
    std::printf("  with %s\n", out.str().c_str());
  }
}
template <class... Parts>
bool Check(bool ok, const char* file, int line, const char* what, const Parts&... message) {
  ++TheState().checks;
  if (!ok) Fail(file, line, what, Text(message...));
  return ok;
}

class Subcase {
 public:
  explicit Subcase(const char* name) {
    State& state = TheState();
    std::vector<std::string> path = state.path;
    path.push_back(name);
    if (state.done.count(path) > 0) return;
    if (state.left) {
      state.more = true;
      return;
    }
    entered_ = true;
    state.path = std::move(path);
    more_before_ = std::exchange(state.more, false);
  }
  ~Subcase() {
    if (!entered_) return;
    State& state = TheState();
    if (!state.more) state.done.insert(state.path);
    state.more |= more_before_;
    state.path.pop_back();
    state.left = true;
  }
  explicit operator bool() const { return entered_; }

 private:
  bool entered_ = false, more_before_ = false;
};

// Matches a part of the text of an exception.
struct Contains {
  std::string text;
};
inline bool Matches(const std::string& text, const char* all) { return text == all; }
inline bool Matches(const std::string& text, const std::string& all) { return text == all; }
inline bool Matches(const std::string& text, const Contains& part) {
  return text.find(part.text) != std::string::npos;
}

// Of the exception that is being handled.
inline std::string What() {
  try {
    throw;
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "something that is no exception";
  }
}

class Context {
 public:
  Context(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      const std::string argument = argv[i];
      const auto after = [&](const char* option) {
        return argument.rfind(option, 0) == 0 ? argument.c_str() + std::strlen(option) : nullptr;
      };
      if (const char* patterns = after("-tc=")) Split(patterns, only_);
      if (const char* patterns = after("-tce=")) Split(patterns, except_);
      list_ |= argument == "-ltc";
      durations_ |= argument == "-d";
    }
  }

  int run() {
    State& state = TheState();
    size_t ran = 0, failed = 0, skipped = 0;
    for (const TestCase& test : state.cases) {
      if ((!only_.empty() && !Any(only_, test.name)) || Any(except_, test.name)) {
        ++skipped;
        continue;
      }
      if (list_) {
        std::printf("%s\n", test.name);
        continue;
      }
      ++ran;
      state.failed = false;
      state.done.clear();
      const auto start = std::chrono::steady_clock::now();
      do {
        state.more = state.left = false;
        RunOnce(test);
      } while (state.more && !state.failed);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (durations_) std::printf("%.3f s: %s\n", took.count(), test.name);
      if (state.failed) {
        ++failed;
        std::printf("%s:%d: FAILED: %s\n\n", test.file, test.line, test.name);
      }
      std::fflush(stdout);
    }
    if (list_) return 0;
    std::printf("[doctest] test cases: %zu | %zu passed | %zu failed | %zu skipped\n", ran,
                ran - failed, failed, skipped);
    std::printf("[doctest] assertions: %zu | %zu passed | %zu failed |\n", state.checks,
                state.checks - state.failed_checks, state.failed_checks);
    std::printf("[doctest] Status: %s!\n", failed == 0 ? "SUCCESS" : "FAILURE");
    return failed == 0 ? 0 : 1;
  }

 private:
  static void RunOnce(const TestCase& test) {
    try {
      test.run();
    } catch (const Abort&) {
    } catch (...) {
      Fail(test.file, test.line, "the test case threw", What());
    }
  }
  static void Split(const char* text, std::vector<std::string>& out) {
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, ',');) out.push_back(part);
  }
  // A * stands for anything.
  static bool Like(const char* pattern, const char* text) {
    if (*pattern == '*') return Like(pattern + 1, text) || (*text != 0 && Like(pattern, text + 1));
    return *pattern == *text && (*pattern == 0 || Like(pattern + 1, text + 1));
  }
  static bool Any(const std::vector<std::string>& patterns, const char* name) {
    for (const std::string& pattern : patterns)
      if (Like(pattern.c_str(), name)) return true;
    return false;
  }

  std::vector<std::string> only_, except_;
  bool list_ = false, durations_ = false;
};

}  // namespace doctest

#define DOCTEST_JOIN2(a, b) a##b
#define DOCTEST_JOIN(a, b) DOCTEST_JOIN2(a, b)
#define DOCTEST_NAME(prefix) DOCTEST_JOIN(prefix, __LINE__)

#define TEST_CASE(name)                                                             \
  static void DOCTEST_NAME(doctest_case_)();                                        \
  [[maybe_unused]] static const int DOCTEST_NAME(doctest_registered_) =             \
      ::doctest::Register({name, __FILE__, __LINE__, DOCTEST_NAME(doctest_case_)}); \
  static void DOCTEST_NAME(doctest_case_)()
#define SUBCASE(name) \
  if (const ::doctest::Subcase DOCTEST_NAME(doctest_subcase_){name}; DOCTEST_NAME(doctest_subcase_))

#define DOCTEST_SAY(...)                                              \
  const ::doctest::ScopeOf DOCTEST_JOIN(doctest_scope_, __COUNTER__)( \
      [&](std::ostream& doctest_out) { doctest_out << ::doctest::Text(__VA_ARGS__); })
#define INFO(...) DOCTEST_SAY(__VA_ARGS__)
#define CAPTURE(x) DOCTEST_SAY(#x " := ", x)
#define MESSAGE(...) std::printf("%s\n", ::doctest::Text(__VA_ARGS__).c_str())

#define DOCTEST_CHECK(ok, what, ...) \
  ::doctest::Check(static_cast<bool>(ok), __FILE__, __LINE__, what __VA_OPT__(, ) __VA_ARGS__)
#define DOCTEST_REQUIRE(...)                                   \
  do {                                                         \
    if (!DOCTEST_CHECK(__VA_ARGS__)) throw ::doctest::Abort(); \
  } while (0)
#define CHECK(...) DOCTEST_CHECK((__VA_ARGS__), "CHECK(" #__VA_ARGS__ ")")
#define CHECK_FALSE(...) DOCTEST_CHECK(!(__VA_ARGS__), "CHECK_FALSE(" #__VA_ARGS__ ")")
#define CHECK_EQ(a, b) DOCTEST_CHECK((a) == (b), "CHECK_EQ(" #a ", " #b ")")
#define CHECK_MESSAGE(ok, ...) DOCTEST_CHECK(ok, "CHECK(" #ok ")", __VA_ARGS__)
#define REQUIRE(...) DOCTEST_REQUIRE((__VA_ARGS__), "REQUIRE(" #__VA_ARGS__ ")")
#define REQUIRE_FALSE(...) DOCTEST_REQUIRE(!(__VA_ARGS__), "REQUIRE_FALSE(" #__VA_ARGS__ ")")
#define REQUIRE_MESSAGE(ok, ...) DOCTEST_REQUIRE(ok, "REQUIRE(" #ok ")", __VA_ARGS__)
#define FAIL_CHECK(...) DOCTEST_CHECK(false, "FAIL_CHECK", __VA_ARGS__)
#define FAIL(...) DOCTEST_REQUIRE(false, "FAIL", __VA_ARGS__)

#define DOCTEST_THROWS(expression, type, with, what)         \
  do {                                                       \
    std::string doctest_got = "nothing was thrown";          \
    bool doctest_ok = false;                                 \
    try {                                                    \
      static_cast<void>(expression);                         \
    } catch (const type&) {                                  \
      doctest_got = ::doctest::What();                       \
      doctest_ok = ::doctest::Matches(doctest_got, with);    \
    } catch (...) {                                          \
      doctest_got = "of another type: " + ::doctest::What(); \
    }                                                        \
    DOCTEST_CHECK(doctest_ok, what, doctest_got);            \
  } while (0)
#define CHECK_THROWS_WITH_AS(expression, with, type) \
  DOCTEST_THROWS(expression, type, with, "CHECK_THROWS_WITH_AS(" #expression ")")
#define CHECK_THROWS_WITH(expression, with) \
  DOCTEST_THROWS(expression, std::exception, with, "CHECK_THROWS_WITH(" #expression ")")
#define CHECK_THROWS_AS(expression, type) \
  DOCTEST_THROWS(expression, type, ::doctest::Contains{}, "CHECK_THROWS_AS(" #expression ")")
#define CHECK_THROWS(expression) \
  DOCTEST_THROWS(expression, std::exception, ::doctest::Contains{}, "CHECK_THROWS(" #expression ")")

#if defined(DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN)
int main(int argc, char** argv) { return ::doctest::Context(argc, argv).run(); }
#endif
