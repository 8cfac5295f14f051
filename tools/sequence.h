// Runs token sequences through a model and reads back everything that it computed: logits and state.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/model.h"
#include "runtime/state_arena.h"

namespace sessa {

inline constexpr Plane kPlanes[] = {Plane::kK, Plane::kV, Plane::kKb, Plane::kS};

struct SequenceResult {
  std::vector<float> logits;                              // (T, V)
  std::vector<std::array<std::vector<float>, 4>> planes;  // [layer][plane]: (T, PlaneWidth)
};

// Pages for a session of `tokens` tokens: an arena to allocate from and the backend's memory behind it.
int32_t PagesForTokens(int64_t tokens);

// Cuts `total` into chunks of `chunk` tokens, the last one shorter.
std::vector<int32_t> EvenChunks(int32_t total, int32_t chunk);

// Prefills `tokens` in one session, cut into steps of chunks[0], chunks[1], ... tokens (their sum is the
// number of tokens). The whole sequence is run again for every OpsInfo::max_output_rows logits of the longest
// chunk.
absl::StatusOr<SequenceResult> RunSequence(Model* model, StateArena* arena, absl::Span<const int32_t> tokens,
                                           absl::Span<const int32_t> chunks);

// Free-running greedy decode after `prompt`: up to `count` tokens, ending after `last_token` (-1: none).
absl::StatusOr<std::vector<int32_t>> RunGreedy(Model* model, StateArena* arena,
                                               absl::Span<const int32_t> prompt, int32_t count,
                                               int32_t last_token = -1);

// Lowest index of the largest logit of a row.
int32_t ArgMax(absl::Span<const float> logits);

}  // namespace sessa
