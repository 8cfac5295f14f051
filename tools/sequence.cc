#include "tools/sequence.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/step_batch_builder.h"

namespace sessa {
namespace {

// One session of its own, given back at the end.
class Session {
 public:
  Session(Model* model, StateArena* arena) : model_(model), arena_(arena) {}
  ~Session() { table_.Release(arena_); }

  // Appends `tokens` in one step. `outputs` count rows from the first of them.
  absl::StatusOr<StepResult> Step(absl::Span<const int32_t> tokens, absl::Span<const OutputRow> outputs) {
    std::vector<PageCopy> copies;
    const int64_t end = table_.tokens() + static_cast<int64_t>(tokens.size());
    if (!table_.EnsureCapacity(end, arena_, &copies)) {
      return absl::ResourceExhaustedError(absl::StrCat("no pages for ", end, " tokens"));
    }
    StepBatch batch;
    StepBatchBuilder(&batch).Append(tokens, table_.tokens(), table_, outputs);
    model_->Launch(batch);
    absl::StatusOr<StepResult> result = model_->Collect();
    table_.Commit(end);
    return result;
  }

  absl::Status ReadPlanes(SequenceResult* result) const {
    const StateLayout& layout = model_->ops().layout();
    result->planes.resize(layout.shape.layers);
    for (int32_t layer = 0; layer < layout.shape.layers; ++layer) {
      for (Plane plane : kPlanes) {
        std::vector<float>& out = result->planes[layer][static_cast<int>(plane)];
        const int64_t width = layout.PlaneWidth(plane);
        out.resize(table_.tokens() * width);
        for (int64_t first = 0; first < table_.tokens(); first += kPageTokens) {
          const int32_t rows = static_cast<int32_t>(std::min<int64_t>(kPageTokens, table_.tokens() - first));
          absl::Status status = model_->ops().ReadState(table_.pages()[first / kPageTokens], layer, plane, 0,
                                                        rows, out.data() + first * width);
          if (!status.ok()) return status;
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  Model* const model_;
  StateArena* const arena_;
  PageTable table_;
};

const SampleParams& Greedy() {
  static const SampleParams* const params = [] {
    auto* greedy = new SampleParams;
    greedy->temperature = 0;
    return greedy;
  }();
  return *params;
}

// Rows [first, first + count) of a segment that begins at `start`.
std::vector<OutputRow> Outputs(int64_t start, int32_t first, int32_t count) {
  std::vector<OutputRow> outputs(count);
  for (int32_t i = 0; i < count; ++i) {
    outputs[i].row = first + i;
    outputs[i].position = start + first + i + 1;
    outputs[i].params = &Greedy();
  }
  return outputs;
}

// One run over the sequence that fills in the logits of rows [slice, slice + rows) of each chunk.
absl::Status RunSlice(Model* model, StateArena* arena, absl::Span<const int32_t> tokens,
                      absl::Span<const int32_t> chunks, int32_t slice, int32_t rows, SequenceResult* result) {
  const int64_t vocab = model->shape().vocab;
  Session session(model, arena);
  int64_t start = 0;
  for (int32_t chunk : chunks) {
    const int32_t count = std::clamp(chunk - slice, 0, rows);
    absl::StatusOr<StepResult> step =
        session.Step(tokens.subspan(start, chunk), Outputs(start, slice, count));
    if (!step.ok()) return step.status();
    for (int32_t i = 0; i < count; ++i) {
      absl::StatusOr<std::vector<float>> logits = model->ops().ReadLogits(i);
      if (!logits.ok()) return logits.status();
      std::copy(logits->begin(), logits->end(), result->logits.begin() + (start + slice + i) * vocab);
    }
    start += chunk;
  }
  return slice == 0 ? session.ReadPlanes(result) : absl::OkStatus();
}

}  // namespace

int32_t PagesForTokens(int64_t tokens) {
  return static_cast<int32_t>((tokens + kPageTokens - 1) / kPageTokens);
}

std::vector<int32_t> EvenChunks(int32_t total, int32_t chunk) {
  std::vector<int32_t> chunks(total / chunk, chunk);
  if (total % chunk != 0) chunks.push_back(total % chunk);
  return chunks;
}

absl::StatusOr<SequenceResult> RunSequence(Model* model, StateArena* arena, absl::Span<const int32_t> tokens,
                                           absl::Span<const int32_t> chunks) {
  SequenceResult result;
  result.logits.resize(tokens.size() * model->shape().vocab);
  const int32_t longest = *std::max_element(chunks.begin(), chunks.end());
  const int32_t rows = model->ops().info().max_output_rows;
  for (int32_t slice = 0; slice < longest; slice += rows) {
    absl::Status status = RunSlice(model, arena, tokens, chunks, slice, rows, &result);
    if (!status.ok()) return status;
  }
  return result;
}

absl::StatusOr<std::vector<int32_t>> RunGreedy(Model* model, StateArena* arena,
                                               absl::Span<const int32_t> prompt, int32_t count,
                                               int32_t last_token) {
  Session session(model, arena);
  std::vector<int32_t> generated;
  std::vector<int32_t> input(prompt.begin(), prompt.end());
  int64_t start = 0;
  while (static_cast<int32_t>(generated.size()) < count) {
    const int32_t last_row = static_cast<int32_t>(input.size()) - 1;
    absl::StatusOr<StepResult> step = session.Step(input, Outputs(start, last_row, 1));
    if (!step.ok()) return step.status();
    start += last_row + 1;
    generated.push_back(step->outputs[0].token);
    if (generated.back() == last_token) break;
    input = {generated.back()};
  }
  return generated;
}

int32_t ArgMax(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace sessa
