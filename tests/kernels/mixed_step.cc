#include "tests/kernels/mixed_step.h"

#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/model.h"
#include "runtime/state_arena.h"
#include "runtime/step_batch_builder.h"

namespace sessa {
namespace {

constexpr int32_t kLongestPast = 150;
// The prompt's session is cut back into a block that had been full: all of what a fork copies is written.
constexpr int32_t kPromptRead = 128, kPromptPast = 70;

// What a session's rows of a step gave: logits of those that wanted them, and the rows of all planes.
struct Given {
  std::vector<float> logits, state;
};

class MixedStep {
 public:
  MixedStep(std::unique_ptr<Ops> ops, int32_t decoders, int32_t chunk, uint32_t seed)
      : compact_(ops->layout().has_open_pages()),
        model_(std::move(ops)),
        arena_(decoders * PagesFor(kLongestPast + 1) + 2 * PagesFor(kPromptPast + chunk) + 1,
               compact_ ? decoders + 2 : 0),
        random_(seed),
        chunk_(chunk),
        tables_(decoders + 1) {
    greedy_.temperature = 0;
  }
  ~MixedStep() {
    for (PageTable& table : tables_) table.Release(&arena_);
  }

  std::string Difference() {
    const absl::Status status =
        model_.ops().AllocateState(arena_.total(PageKind::kState), arena_.total(PageKind::kOpen));
    if (!status.ok()) return status.ToString();
    std::vector<size_t> decoders, all;
    for (size_t i = 0; i < tables_.size(); ++i) {
      const bool decodes = i + 1 < tables_.size();
      if (decodes) decoders.push_back(i);
      all.push_back(i);
      next_.push_back(Tokens(decodes ? 1 : chunk_));
      Read(i, decodes ? 1 + random_() % kLongestPast : kPromptRead);
    }
    // Alone a fork goes on, together its parent: neither may touch the other's pages.
    PageTable& prompt = tables_.back();
    prompt.Truncate(kPromptPast, &arena_);
    tables_.push_back(prompt.Fork(kPromptPast, &arena_));
    next_.push_back(next_.back());
    for (size_t i = 0; i < tables_.size(); ++i) MakeRoom(i, tables_[i].tokens() + next_[i].size());
    std::vector<Given> alone = Step(decoders), read = Step({tables_.size() - 1});
    alone.insert(alone.end(), read.begin(), read.end());
    const std::vector<Given> together = Step(all);
    if (!error_.empty()) return error_;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!Same(alone[i].logits, together[i].logits)) return absl::StrCat("logits of session ", i);
      if (!Same(alone[i].state, together[i].state)) return absl::StrCat("state of session ", i);
    }
    return "";
  }

 private:
  static int32_t PagesFor(int32_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
  static bool Same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }
  std::vector<int32_t> Tokens(int32_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = random_() % model_.shape().vocab;
    return tokens;
  }

  void Launch(const StepBatch& batch) {
    model_.Launch(batch);
    const absl::Status status = model_.Collect().status();
    if (!status.ok() && error_.empty()) error_ = status.ToString();
  }

  void MakeRoom(size_t session, int64_t end) {
    std::vector<PageCopy> copies;
    if (!tables_[session].EnsureCapacity(end, &arena_, &copies)) error_ = "out of pages";
    for (const PageCopy& copy : copies) {
      if (copy.kind == PageKind::kState) model_.ops().CopyPage(copy.from, copy.to);
      if (copy.kind == PageKind::kOpen) model_.ops().CopyOpenPage(copy.from, copy.to);
    }
  }

  // The first tokens of a session.
  void Read(size_t session, int32_t count) {
    PageTable& table = tables_[session];
    MakeRoom(session, count);
    StepBatch batch;
    StepBatchBuilder(&batch).Append(Tokens(count), 0, table, {}, -1);
    Launch(batch);
    table.Commit(count);
  }

  // The next tokens of these sessions, which are as if they had not been read afterwards.
  std::vector<Given> Step(const std::vector<size_t>& sessions) {
    StepBatch batch;
    StepBatchBuilder builder(&batch);
    for (const size_t session : sessions) {
      const int64_t start = tables_[session].tokens();
      const int32_t rows = static_cast<int32_t>(next_[session].size());
      std::vector<OutputRow> outputs(rows > 1 ? 2 : 1);  // the first and the last
      outputs.back().row = rows - 1;
      for (OutputRow& output : outputs) {
        output.position = start + output.row + 1;
        output.params = &greedy_;
      }
      builder.Append(next_[session], start, tables_[session], outputs, -1);
    }
    Launch(batch);
    std::vector<Given> given;
    int32_t output = 0;
    for (const size_t session : sessions) {
      Given& own = given.emplace_back();
      for (size_t i = 0; i < (next_[session].size() > 1 ? 2 : 1) && error_.empty(); ++i) {
        const std::vector<float> logits = model_.ops().ReadLogits(output++).value();
        own.logits.insert(own.logits.end(), logits.begin(), logits.end());
      }
      ReadState(session, &own.state);
    }
    return given;
  }

  void ReadState(size_t session, std::vector<float>* out) {
    const StateLayout& layout = model_.ops().layout();
    const PageTable& table = tables_[session];
    for (int64_t p = table.tokens(); p < table.tokens() + static_cast<int64_t>(next_[session].size()); ++p) {
      for (int32_t layer = 0; layer < layout.shape.layers; ++layer) {
        for (const Plane plane : {Plane::kK, Plane::kV, Plane::kKb, Plane::kS}) {
          std::vector<float> row(layout.PlaneWidth(plane));
          const absl::Status status = model_.ops().ReadState(table.pages()[p / kPageTokens], layer, plane,
                                                             p % kPageTokens, 1, row.data());
          if (!status.ok() && error_.empty()) error_ = status.ToString();
          out->insert(out->end(), row.begin(), row.end());
        }
      }
    }
  }

  const bool compact_;
  Model model_;
  StateArena arena_;
  std::mt19937 random_;
  const int32_t chunk_;
  SampleParams greedy_;
  std::vector<PageTable> tables_;           // behind the decoders' the prompt's, and its fork
  std::vector<std::vector<int32_t>> next_;  // tokens, by session
  std::string error_;
};

}  // namespace

std::string MixedStepDifference(std::unique_ptr<Ops> ops, int32_t decoders, int32_t chunk, uint32_t seed) {
  return MixedStep(std::move(ops), decoders, chunk, seed).Difference();
}

}  // namespace sessa
