// Attention on .npy files: reads query, key, value and a mask, calls the library or naive Eigen,
// writes what comes out, tells how long it takes. One call by its arguments, or many by lines on
// stdin.
#include <charconv>
#include <chrono>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "run_job.hpp"

namespace {

constexpr const char* help = R"(usage: attn_run OPTIONS
       attn_run --serve

  --query FILE        .npy, batch x heads x length x width, float32 or float64
  --key FILE          the same, with as many or fewer heads
  --value FILE
  --mask FILE         bool (true is seen) or as query (is added to scores), 1 for any of the first
                      three extents serves all
  --causal            a query sees no key after its own
  --window LEFT,RIGHT a query sees so many keys before and after its own; -1 is unbounded
  --alignment WHERE   top_left, bottom_right, or at which key the first query stands
  --scale X           instead of 1/sqrt(width)
  --backward FILE     what came back for the result: a call goes forward and back
  --threads N
  --naive             plain Eigen instead of the library
  --write FOLDER      writes out.npy, log_sum_exp.npy, and query_gradient.npy, key_gradient.npy,
                      value_gradient.npy after a way back
  --time N            prints the seconds that N further calls take

--serve takes lines on stdin and answers each by a line, "ok ..." or "error MESSAGE":
  load OPTIONS        those above, but for the last two
  write FOLDER        calls, and writes
  time N              ok SECONDS
  memory              ok BYTES: what a call adds to the memory in use while it runs
  quit
)";

using words = std::vector<std::string>;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

template <class Number>
Number number(const std::string& name, const std::string& text, const char* expected) {
  Number result{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  if (error != std::errc{} || end != text.data() + text.size()) {
    refuse(name + " is \"" + text + "\", it should be " + expected);
  }
  return result;
}

bench::run_window window(const std::string& text) {
  constexpr const char* expected = "LEFT,RIGHT: two whole numbers";
  const std::size_t comma = text.find(',');
  if (comma == std::string::npos) refuse("--window is \"" + text + "\", it should be " + expected);
  return {number<attn::index>("--window", text.substr(0, comma), expected),
          number<attn::index>("--window", text.substr(comma + 1), expected)};
}

attn::alignment alignment(const std::string& text) {
  if (text == "top_left") return attn::top_left;
  if (text == "bottom_right") return attn::bottom_right;
  return attn::offset(
      number<attn::index>("--alignment", text, "top_left, bottom_right or a whole number"));
}

int at_least_one(const std::string& name, const std::string& text) {
  const int result = number<int>(name, text, "a whole number");
  if (result < 1) refuse(name + " is " + text + ", it should be at least 1");
  return result;
}

/// What the arguments ask for.
struct arguments {
  bench::run_request request;
  std::filesystem::path write;
  int time = 0;
};

arguments parse(const words& given) {
  arguments result;
  bench::run_request& r = result.request;
  for (std::size_t n = 0; n < given.size(); ++n) {
    const std::string& name = given[n];
    const auto value = [&]() -> const std::string& {
      if (n + 1 == given.size()) refuse(name + " needs a value");
      return given[++n];
    };
    if (name == "--query") {
      r.query = value();
    } else if (name == "--key") {
      r.key = value();
    } else if (name == "--value") {
      r.value = value();
    } else if (name == "--mask") {
      r.mask = value();
    } else if (name == "--backward") {
      r.out_gradient = value();
    } else if (name == "--causal") {
      r.causal = true;
    } else if (name == "--naive") {
      r.naive = true;
    } else if (name == "--window") {
      r.window = window(value());
    } else if (name == "--alignment") {
      r.alignment = alignment(value());
    } else if (name == "--scale") {
      r.scale = number<double>(name, value(), "a number");
    } else if (name == "--threads") {
      r.threads = at_least_one(name, value());
    } else if (name == "--write") {
      result.write = value();
    } else if (name == "--time") {
      result.time = at_least_one(name, value());
    } else {
      refuse("unknown option " + name + "; attn_run --help explains");
    }
  }
  if (r.query.empty()) refuse("--query is missing; attn_run --help explains");
  if (r.key.empty()) refuse("--key is missing; attn_run --help explains");
  if (r.value.empty()) refuse("--value is missing; attn_run --help explains");
  if (r.causal && r.window) refuse("--causal and --window are both given: --window LEFT,0 is both");
  return result;
}

double seconds_of(bench::run_job& job, int calls) {
  const auto start = std::chrono::steady_clock::now();
  for (int n = 0; n < calls; ++n) job.call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// A field of /proc/self/status, in bytes.
std::int64_t status(const std::string& field) {
  std::ifstream in("/proc/self/status");
  for (std::string word; in >> word;) {
    if (word != field + ":") continue;
    std::int64_t kibibytes = 0;
    in >> kibibytes;
    return kibibytes * 1024;
  }
  refuse("this system does not tell a program's memory");
}

/// What the call adds to the memory that is in use, at the most.
std::int64_t growth_of(bench::run_job& job) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak is now what is in use
  const std::int64_t before = status("VmRSS");
  job.call();
  return status("VmHWM") - before;
}

void write(bench::run_job& job, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  job.write(folder);
}

/// The answer to a line, after "ok".
std::string answer(const words& line, std::unique_ptr<bench::run_job>& job) {
  const std::string command = line.empty() ? "" : line.front();
  const words rest(line.begin() + (line.empty() ? 0 : 1), line.end());
  if (command == "load") {
    job.reset();  // before the next one: both may be large
    job = bench::make_job(parse(rest).request);
    return "";
  }
  const std::size_t expected = command == "memory" ? 0 : 1;
  if (command != "write" && command != "time" && command != "memory") {
    refuse("unknown command \"" + command + "\", expected load, write, time, memory or quit");
  }
  if (rest.size() != expected) refuse(command + " takes " + std::to_string(expected) + " words");
  if (!job) refuse("nothing is loaded");
  std::ostringstream result;
  if (command == "write") {
    write(*job, rest[0]);
  } else if (command == "time") {
    result << ' ' << std::setprecision(9) << seconds_of(*job, at_least_one("time", rest[0]));
  } else {
    result << ' ' << growth_of(*job);
  }
  return result.str();
}

void serve() {
  std::unique_ptr<bench::run_job> job;
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    std::istringstream in(line);
    words parts;
    for (std::string part; in >> std::quoted(part);) parts.push_back(part);
    try {
      const std::string said = answer(parts, job);
      std::cout << "ok" << said << '\n' << std::flush;
    } catch (const std::exception& error) {
      std::cout << "error " << error.what() << '\n' << std::flush;
    }
  }
}

}  // namespace

int main(int count, char** values) {
  const words given(values + 1, values + count);
  try {
    if (given == words{"--help"}) {
      std::cout << help;
    } else if (given == words{"--serve"}) {
      serve();
    } else {
      const arguments wanted = parse(given);
      const std::unique_ptr<bench::run_job> job = bench::make_job(wanted.request);
      if (wanted.write.empty()) {
        job->call();
      } else {
        write(*job, wanted.write);
      }
      if (wanted.time > 0) std::cout << seconds_of(*job, wanted.time) << '\n';
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "attn_run: " << error.what() << '\n';
    return 1;
  }
}
