// Checks on what clients ask of the sampler. What the parameters mean: kernels/host_sampler.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sampling.h"

namespace sessa {

// Checks every parameter against a vocabulary of `vocab` tokens and brings the lists into the order that the
// sampler wants: logit_bias, allowed_tokens and enders sorted, without repetitions. INVALID_ARGUMENT
// (INVALID_FIELD) naming the field of SamplingParams, as in "sampling.top_p"; *params is then in an
// unspecified order but unchanged in meaning.
absl::Status PrepareSampleParams(int32_t vocab, SampleParams* params);

// At most 16 stop strings, each of 1 to 256 bytes of valid UTF-8. INVALID_ARGUMENT naming "sampling.stop".
absl::Status CheckStopStrings(const std::vector<std::string>& stop);

}  // namespace sessa
