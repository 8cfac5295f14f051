// Plain structures that host code fills and kernels read. No CUDA headers needed.
#pragma once

#include <cstdint>

namespace sessa::cuda {

// A row of a batch. 32 bytes.
struct RowMeta {
  int32_t token;       // id, where slot < 0
  int32_t slot;        // >= 0: the token is the one last sampled into this slot
  int32_t position;    // in the session
  int32_t page_begin;  // page of positions [64 i, 64 i + 64) is pages[page_begin + i]
  int32_t open_page;   // compact state
  int32_t live;        // 0: padding, which attends to nothing and writes to the scratch page
  int32_t unused[2];
};

// How the decode rows' attention is cut up.
struct DecodeHeader {
  int32_t fine;    // 1: an item is a leaf; 0: a unit (attention_schedule.h)
  uint32_t epoch;  // of the step, for the few-rows kernel (few_rows.h)
  // Of either attention's runs the first ones are items as a whole (feedback, forward).
  int32_t whole_runs[2];
};

enum class OutputMode : int32_t {
  kNone = 0,    // padding, or left to the host
  kSample = 1,  // temperature, top_k, top_p, min_p
  kScore = 2,   // the log-probability of `target`
};

// A row of logits and what to do with it. 64 bytes.
struct OutputMeta {
  int32_t row;  // of the pass's activations
  OutputMode mode;
  int32_t target;
  int32_t slot;  // >= 0: where the token goes
  int32_t top_k;
  float temperature, top_p, min_p;
  uint64_t seed;
  int64_t position;
  uint32_t sample_index;
  int32_t unused[3];
};

struct SampleResult {
  int32_t token;
  float logprob;
  int32_t finite;
  int32_t unused;
};

// The state slabs as one layer sees them. Offsets in bytes.
struct LayerState {
  char* pages;
  char* open_pages;
  int64_t page_bytes, open_page_bytes;
  int64_t k, v, kb, s;  // of row 0 of the plane in a page
  int64_t open_s;       // of row 0 in an open page
  int32_t width, kv;    // D, Hkv d
  int32_t f32;          // float32 planes, no open pages; else k, v, kb bf16 and s fp16
};

}  // namespace sessa::cuda
