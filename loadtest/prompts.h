// Prompts for load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loadtest/random.h"
#include "sessa/v1/inference.pb.h"

namespace sessa {

// Sets token_ids to `count` ids at random in [0, vocabulary), BOS and EOS left out.
void SetRandomIds(const v1::Model& model, int64_t count, Random* random, v1::GenerateRequest* request);

// Sets text to sentences at random until there are about three characters a token, a newline at the end.
void SetRandomText(const std::vector<std::string>& sentences, int64_t tokens, Random* random,
                   v1::GenerateRequest* request);

// Sentences of the kind that the bundled model was trained on.
const std::vector<std::string>& BuiltInSentences();

}  // namespace sessa
