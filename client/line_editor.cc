#include "client/line_editor.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "client/text.h"

namespace sessa {
namespace {

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }
bool IsFinal(char byte) { return byte >= 0x40 && byte <= 0x7E; }  // the last byte of a control sequence

size_t CountCharacters(absl::string_view text) {
  return text.size() - std::count_if(text.begin(), text.end(), IsContinuation);
}

size_t TerminalColumns() {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

LineBuffer::Event LineBuffer::Feed(char byte) {
  if (!escape_.empty()) {
    escape_.push_back(byte);
    const bool introducer = escape_.size() == 2 && (byte == '[' || byte == 'O');
    if (introducer || (escape_.size() < 16 && escape_.size() > 2 && !IsFinal(byte))) return Event::kNone;
    return Escape(std::exchange(escape_, std::string()).substr(1));
  }
  if (static_cast<unsigned char>(byte) < 0x20 || byte == 0x7F) return Control(byte);
  text_.insert(cursor_, 1, byte);
  ++cursor_;
  return Event::kChanged;
}

LineBuffer::Event LineBuffer::Control(char byte) {
  constexpr char kCtrl = 0x1F;
  if (byte == '\r' || byte == '\n') return Event::kLine;
  if (byte == 0x1B) {
    escape_.assign(1, byte);
    return Event::kNone;
  }
  if (byte == ('C' & kCtrl)) return Event::kCancelled;
  if (byte == ('D' & kCtrl)) {
    if (text_.empty()) return Event::kEnd;
    Erase(cursor_, After(cursor_));
  } else if (byte == 0x7F || byte == ('H' & kCtrl)) {
    Erase(Before(cursor_), cursor_);
  } else if (byte == ('A' & kCtrl)) {
    cursor_ = 0;
  } else if (byte == ('E' & kCtrl)) {
    cursor_ = text_.size();
  } else if (byte == ('U' & kCtrl)) {
    Erase(0, cursor_);
  } else if (byte == ('K' & kCtrl)) {
    Erase(cursor_, text_.size());
  } else if (byte == ('W' & kCtrl)) {
    size_t from = cursor_;
    while (from > 0 && text_[from - 1] == ' ') --from;
    while (from > 0 && text_[from - 1] != ' ') --from;
    Erase(from, cursor_);
  } else if (byte == '\t') {
    text_.insert(cursor_++, 1, ' ');
  } else {
    return Event::kNone;
  }
  return Event::kChanged;
}

LineBuffer::Event LineBuffer::Escape(absl::string_view sequence) {
  if (sequence == "[A" || sequence == "OA") return Recall(-1);
  if (sequence == "[B" || sequence == "OB") return Recall(+1);
  if (sequence == "[C" || sequence == "OC") {
    cursor_ = After(cursor_);
  } else if (sequence == "[D" || sequence == "OD") {
    cursor_ = Before(cursor_);
  } else if (sequence == "[H" || sequence == "OH" || sequence == "[1~") {
    cursor_ = 0;
  } else if (sequence == "[F" || sequence == "OF" || sequence == "[4~") {
    cursor_ = text_.size();
  } else if (sequence == "[3~") {
    Erase(cursor_, After(cursor_));
  } else {
    return Event::kNone;
  }
  return Event::kChanged;
}

LineBuffer::Event LineBuffer::Recall(int step) {
  if ((step < 0 && recalled_ == 0) || (step > 0 && recalled_ == history_.size())) return Event::kNone;
  if (recalled_ == history_.size()) draft_ = text_;
  recalled_ += step;
  text_ = recalled_ == history_.size() ? draft_ : history_[recalled_];
  cursor_ = text_.size();
  return Event::kChanged;
}

void LineBuffer::Clear() {
  text_.clear();
  draft_.clear();
  escape_.clear();
  cursor_ = 0;
  recalled_ = history_.size();
}

void LineBuffer::AddHistory(const std::string& line) {
  if (!line.empty() && (history_.empty() || history_.back() != line)) history_.push_back(line);
  recalled_ = history_.size();
}

void LineBuffer::Erase(size_t from, size_t to) {
  text_.erase(from, to - from);
  cursor_ = from;
}

size_t LineBuffer::Before(size_t at) const {
  while (at > 0 && IsContinuation(text_[--at])) {
  }
  return at;
}

size_t LineBuffer::After(size_t at) const {
  if (at < text_.size()) ++at;
  while (at < text_.size() && IsContinuation(text_[at])) ++at;
  return at;
}

// Redraws the line in place, scrolled so that the cursor is visible. A character counts as one column.
void LineReader::Draw(absl::string_view prompt) const {
  const size_t columns = TerminalColumns();
  const size_t room = columns > prompt.size() + 1 ? columns - prompt.size() - 1 : 1;
  const absl::string_view text = buffer_.text();
  size_t from = 0;
  while (CountCharacters(text.substr(from, buffer_.cursor() - from)) > room) {
    ++from;
    while (from < text.size() && IsContinuation(text[from])) ++from;
  }
  size_t to = from;
  for (size_t shown = 0; to < text.size() && (shown < room || IsContinuation(text[to])); ++to) {
    if (!IsContinuation(text[to])) ++shown;
  }
  const size_t column = prompt.size() + CountCharacters(text.substr(from, buffer_.cursor() - from));
  std::cout << "\r" << prompt << TerminalText(text.substr(from, to - from)) << "\x1B[K\r";
  if (column > 0) std::cout << "\x1B[" << column << "C";
  std::cout << std::flush;
}

// Raw mode of the terminal while it lives.
class LineReader::RawMode {
 public:
  explicit RawMode(LineReader* reader) : reader_(reader) {
    termios raw = *reader_->found_;
    raw.c_lflag &= ~(ICANON | ECHO | ISIG | IEXTEN);
    raw.c_iflag &= ~(IXON | ICRNL);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    Set(raw);
  }
  ~RawMode() { Set(*reader_->found_); }
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;

 private:
  void Set(const termios& mode) {
    std::lock_guard<std::mutex> lock(reader_->mu_);
    if (!reader_->given_back_) tcsetattr(STDIN_FILENO, TCSANOW, &mode);  // never waits for the output
  }
  LineReader* const reader_;
};

LineReader::LineReader() {
  termios found;
  if (tcgetattr(STDIN_FILENO, &found) == 0) found_ = found;
}

void LineReader::GiveBack() {
  std::lock_guard<std::mutex> lock(mu_);
  given_back_ = true;
  if (found_) tcsetattr(STDIN_FILENO, TCSANOW, &*found_);
}

LineReader::Result LineReader::Read(absl::string_view prompt, std::string* line) {
  if (!found_) return std::getline(std::cin, *line) ? Result::kLine : Result::kEnd;
  RawMode raw(this);
  buffer_.Clear();
  Draw(prompt);
  while (true) {
    char byte = 0;
    const LineBuffer::Event event =
        read(STDIN_FILENO, &byte, 1) == 1 ? buffer_.Feed(byte) : LineBuffer::Event::kEnd;
    if (event == LineBuffer::Event::kChanged) Draw(prompt);
    if (event == LineBuffer::Event::kNone || event == LineBuffer::Event::kChanged) continue;
    std::cout << "\r\n" << std::flush;
    *line = buffer_.text();
    if (event == LineBuffer::Event::kEnd) return Result::kEnd;
    if (event == LineBuffer::Event::kCancelled) return Result::kCancelled;
    buffer_.AddHistory(*line);
    return Result::kLine;
  }
}

}  // namespace sessa
