#include "tests/kernels/company.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/model.h"
#include "runtime/step_batch_builder.h"
#include "tools/random_weights.h"
#include "tools/sequence.h"

namespace sessa {
namespace {

class Company {
 public:
  Company(CreateOpsFn create, const ModelShape& shape, const CompanyOptions& options, uint32_t seed)
      : shape_(shape), options_(options), weights_(shape, seed), random_(seed), create_(create) {
    greedy_.temperature = 0;
    for (int32_t i = 0; i < options.sessions; ++i) {
      std::vector<int32_t>& tokens = tokens_.emplace_back(1 + Below(options.max_tokens));
      for (int32_t& token : tokens) token = Below(shape.vocab);
    }
  }

  std::string Difference() {
    Make(/*threads=*/1);
    for (const std::vector<int32_t>& tokens : tokens_) {
      absl::StatusOr<SequenceResult> alone =
          RunSequence(&*model_, &*arena_, tokens, {static_cast<int32_t>(tokens.size())});
      if (!alone.ok()) return alone.status().ToString();
      alone_.push_back(*std::move(alone));
    }
    Make(options_.cpu_threads);
    tables_.resize(tokens_.size());
    std::string difference;
    while (difference.empty() && Unfinished()) difference = Step();
    for (size_t i = 0; difference.empty() && i < tokens_.size(); ++i) difference = StateDifference(i);
    for (PageTable& table : tables_) table.Release(&*arena_);
    return difference;
  }

 private:
  int32_t Below(int32_t limit) { return static_cast<int32_t>(random_() % limit); }

  void Make(int32_t threads) {
    const int32_t pages = options_.sessions * PagesForTokens(options_.max_tokens);
    const int32_t open_pages = options_.state_dtype == StateDtype::kCompact ? options_.sessions : 0;
    OpsOptions ops;
    ops.max_rows = options_.sessions * options_.max_tokens;
    ops.max_segments = options_.sessions;
    ops.state_dtype = options_.state_dtype;
    ops.cpu_threads = threads;
    model_.emplace(create_(shape_, weights_.tensors(), ops).value());
    model_->ops().AllocateState(pages, open_pages).IgnoreError();  // a failure shows in the first step
    arena_.emplace(pages, open_pages);
  }

  bool Unfinished() const {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tables_[i].tokens() < static_cast<int64_t>(tokens_[i].size())) return true;
    }
    return false;
  }

  // Rows of the next segment of a session: often one, else a few, else anything up to all that is left.
  int32_t NextRows(size_t session) {
    const int32_t left = static_cast<int32_t>(tokens_[session].size() - tables_[session].tokens());
    const int32_t kinds[] = {0, 1, 1 + Below(10), 1 + Below(std::max(1, left))};
    return std::min(left, kinds[Below(4)]);
  }

  std::string Step() {
    std::vector<std::pair<int32_t, size_t>> turns;  // rows, session
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (const int32_t rows = NextRows(i); rows > 0) turns.push_back({rows, i});
    }
    if (turns.empty()) return "";
    std::shuffle(turns.begin(), turns.end(), random_);
    std::stable_partition(turns.begin(), turns.end(), [](const auto& turn) { return turn.first == 1; });

    StepBatch batch;
    StepBatchBuilder builder(&batch);
    std::vector<std::pair<size_t, int64_t>> rows_of;  // session and position of each output
    for (const auto& [rows, session] : turns) {
      PageTable& table = tables_[session];
      const int64_t start = table.tokens();
      std::vector<PageCopy> copies;
      if (!table.EnsureCapacity(start + rows, &*arena_, &copies)) return "out of pages";
      std::vector<OutputRow> outputs;
      for (int32_t row = 0; row < rows; ++row) {
        if (rows_of.size() >= model_->ops().info().max_output_rows || (row + 1 < rows && Below(3) != 0))
          continue;
        OutputRow& output = outputs.emplace_back();
        output.row = row;
        output.position = start + row + 1;
        output.params = &greedy_;
        rows_of.push_back({session, start + row});
      }
      builder.Append(absl::MakeConstSpan(tokens_[session]).subspan(start, rows), start, table, outputs);
      table.Commit(start + rows);
    }
    model_->Launch(batch);
    absl::StatusOr<StepResult> result = model_->Collect();
    if (!result.ok()) return result.status().ToString();
    for (size_t i = 0; i < rows_of.size(); ++i) {
      std::string difference = LogitDifference(static_cast<int32_t>(i), rows_of[i].first, rows_of[i].second);
      if (!difference.empty()) return difference;
    }
    if (options_.truncations && Below(8) == 0) {
      PageTable& table = tables_[Below(options_.sessions)];
      table.Truncate(Below(static_cast<int32_t>(table.tokens()) + 1), &*arena_);
    }
    return "";
  }

  std::string LogitDifference(int32_t output, size_t session, int64_t position) {
    const std::vector<float> logits = model_->ops().ReadLogits(output).value();
    const float* alone = &alone_[session].logits[position * shape_.vocab];
    if (std::memcmp(logits.data(), alone, shape_.vocab * sizeof(float)) == 0) return "";
    return absl::StrCat("logits of session ", session, " at position ", position);
  }

  std::string StateDifference(size_t session) {
    const StateLayout& layout = model_->ops().layout();
    for (int64_t position = 0; position < tables_[session].tokens(); ++position) {
      const PageId page = tables_[session].pages()[position / kPageTokens];
      for (int32_t layer = 0; layer < shape_.layers; ++layer) {
        for (Plane plane : kPlanes) {
          std::vector<float> row(layout.PlaneWidth(plane));
          absl::Status status =
              model_->ops().ReadState(page, layer, plane, position % kPageTokens, 1, row.data());
          if (!status.ok()) return status.ToString();
          const float* alone = &alone_[session].planes[layer][static_cast<int>(plane)][position * row.size()];
          if (std::memcmp(row.data(), alone, row.size() * sizeof(float)) == 0) continue;
          return absl::StrCat("plane ", static_cast<int>(plane), " of layer ", layer, " of session ", session,
                              " at position ", position);
        }
      }
    }
    return "";
  }

  const ModelShape shape_;
  const CompanyOptions options_;
  const RandomWeights weights_;
  std::mt19937 random_;
  const CreateOpsFn create_;
  SampleParams greedy_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<SequenceResult> alone_;
  std::vector<PageTable> tables_;
  std::optional<Model> model_;
  std::optional<StateArena> arena_;
};

}  // namespace

std::string CompanyDifference(CreateOpsFn create, const ModelShape& shape, const CompanyOptions& options,
                              uint32_t seed) {
  const std::string difference = Company(create, shape, options, seed).Difference();
  return difference.empty() ? "" : absl::StrCat("seed ", seed, ": ", difference);
}

}  // namespace sessa
