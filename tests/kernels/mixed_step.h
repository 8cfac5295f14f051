// What a step that decodes and reads a prompt at once must give: for each what it gives in a step of its own,
// bit for bit. Every backend must, CUDA as well: there the two are passes over the same buffers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/ops.h"

namespace sessa {

// `ops`: fresh, for at least decoders + chunk rows, decoders + 1 segments and two outputs more than decoders,
// without state yet. Decoders are at random places of up to 150 tokens; the chunk is read from token 70 of
// its session on. Returns what differs, empty when logits and state agree.
std::string MixedStepDifference(std::unique_ptr<Ops> ops, int32_t decoders, int32_t chunk, uint32_t seed);

}  // namespace sessa
