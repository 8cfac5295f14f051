// One line of input, edited in place, with history. Enough for chat without a library.
#pragma once

#include <termios.h>

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sessa {

// The line and its cursor; knows keys but no terminal. Keys: characters, Backspace, Delete, Left, Right,
// Home, End, Up, Down, Ctrl-A/E (ends), Ctrl-U/K (erase to the start, to the end), Ctrl-W (erase a word),
// Ctrl-C, Ctrl-D.
class LineBuffer {
 public:
  enum class Event { kNone, kChanged, kLine, kCancelled, kEnd };

  // Takes one byte of input. kLine: text() is complete. kCancelled: Ctrl-C; kEnd: Ctrl-D on an empty line.
  Event Feed(char byte);
  void Clear();                              // begins a new line
  void AddHistory(const std::string& line);  // empty lines and repetitions are not kept

  const std::string& text() const { return text_; }  // valid UTF-8 if the input was
  size_t cursor() const { return cursor_; }          // in bytes, at a character's start

 private:
  Event Control(char byte);
  Event Escape(absl::string_view sequence);
  Event Recall(int step);
  void Erase(size_t from, size_t to);
  size_t Before(size_t at) const;
  size_t After(size_t at) const;

  std::string text_;
  size_t cursor_ = 0;
  std::string escape_;  // of an escape sequence that has begun
  std::vector<std::string> history_;
  size_t recalled_ = 0;  // index in history_; its size: the line that is being written
  std::string draft_;    // that line, while an older one is shown
};

// Reads lines from standard input: through LineBuffer on a terminal (raw mode while reading), plainly
// otherwise. One thread, but for GiveBack.
class LineReader {
 public:
  LineReader();
  enum class Result { kLine, kCancelled, kEnd };
  Result Read(absl::string_view prompt, std::string* line);
  // Leaves the terminal as it was found, for good. For a thread that ends the program while Read runs.
  // Thread-safe.
  void GiveBack();

 private:
  class RawMode;
  void Draw(absl::string_view prompt) const;

  LineBuffer buffer_;
  std::optional<termios> found_;  // of standard input; none: no terminal. Constant after construction
  std::mutex mu_;
  bool given_back_ = false;  // guarded by mu_, held while the terminal's mode is set
};

}  // namespace sessa
