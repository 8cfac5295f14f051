// config.json and generation_config.json: a valid one, and the same with one key changed.
#include "runtime/checkpoint/config.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sessa {
namespace {

using testing::HasSubstr;

using Keys = std::map<std::string, std::string>;  // key -> JSON

Keys Required() {
  return {{"vocab_size", "97"},
          {"hidden_size", "64"},
          {"num_hidden_layers", "2"},
          {"num_attention_heads", "4"},
          {"max_position_embeddings", "4096"},
          {"torch_dtype", "\"bfloat16\""},
          {"model_type", "\"sessa\""},
          {"architectures", "[\"SessaForCausalLM\"]"}};
}

std::string Json(const Keys& keys) {
  return absl::StrCat("{",
                      absl::StrJoin(keys, ",",
                                    [](std::string* out, const auto& key) {
                                      absl::StrAppend(out, "\"", key.first, "\":", key.second);
                                    }),
                      "}");
}

TEST(ConfigTest, Defaults) {
  const auto config = ParseModelConfig("f", Json(Required()));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->shape.vocab, 97);
  EXPECT_EQ(config->shape.width, 64);
  EXPECT_EQ(config->shape.layers, 2);
  EXPECT_EQ(config->shape.heads, 4);
  EXPECT_EQ(config->shape.kv_heads, 4);
  EXPECT_EQ(config->shape.norm_eps, 1e-5f);
  EXPECT_EQ(config->shape.rope_theta, 10000.0);
  EXPECT_TRUE(config->shape.use_rope);
  EXPECT_EQ(config->shape.gamma_max, 0.999);
  EXPECT_FALSE(config->shape.tied_head);
  EXPECT_EQ(config->max_positions, 4096);
  EXPECT_EQ(config->torch_dtype, DType::kBF16);
  EXPECT_EQ(config->bos_token, std::nullopt);
  EXPECT_EQ(config->eos_token, std::nullopt);
  EXPECT_EQ(config->tokenizer_file, "");
}

TEST(ConfigTest, EveryKey) {
  Keys keys = Required();
  keys["num_key_value_heads"] = "2";
  keys["layer_norm_eps"] = "1e-6";
  keys["rope_theta"] = "500000";
  keys["use_forward_rope"] = "false";
  keys["gamma_max"] = "0.5";
  keys["tie_word_embeddings"] = "true";
  keys["bos_token_id"] = "0";
  keys["eos_token_id"] = "96";
  keys["tokenizer_file"] = "\"tokenizer.model\"";
  keys["torch_dtype"] = "\"float16\"";
  keys["transformers_version"] = "\"4.0\"";  // somebody else's: ignored
  const auto config = ParseModelConfig("f", Json(keys));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->shape.kv_heads, 2);
  EXPECT_EQ(config->shape.norm_eps, 1e-6f);
  EXPECT_EQ(config->shape.rope_theta, 500000.0);
  EXPECT_FALSE(config->shape.use_rope);
  EXPECT_EQ(config->shape.gamma_max, 0.5);
  EXPECT_TRUE(config->shape.tied_head);
  EXPECT_EQ(config->bos_token, 0);
  EXPECT_EQ(config->eos_token, 96);
  EXPECT_EQ(config->tokenizer_file, "tokenizer.model");
  EXPECT_EQ(config->torch_dtype, DType::kF16);
}

TEST(ConfigTest, NullIsAbsent) {
  Keys keys = Required();
  for (const char* key :
       {"bos_token_id", "eos_token_id", "rope_theta", "tokenizer_file", "num_key_value_heads"}) {
    keys[key] = "null";
  }
  EXPECT_TRUE(ParseModelConfig("f", Json(keys)).ok());
}

TEST(ConfigTest, AnOddHeadWidthIsFineWithoutRope) {
  Keys keys = Required();
  keys["hidden_size"] = "60";
  EXPECT_EQ(ParseModelConfig("f", Json(keys)).status().message(),
            "f: use_forward_rope needs an even head width, not 15");
  keys["use_forward_rope"] = "false";
  EXPECT_TRUE(ParseModelConfig("f", Json(keys)).ok());
}

TEST(ConfigTest, EachRequiredKeyIsNamedWhenMissing) {
  for (const auto& [key, value] : Required()) {
    for (const bool null : {false, true}) {
      Keys keys = Required();
      null ? void(keys[key] = "null") : void(keys.erase(key));
      const auto config = ParseModelConfig("d/config.json", Json(keys));
      ASSERT_FALSE(config.ok()) << key;
      EXPECT_EQ(config.status().message(), absl::StrCat("d/config.json: ", key, " is missing"));
    }
  }
}

struct Row {
  const char* key;
  const char* value;
  const char* error;
};

std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.key << " = " << row.value; }

class WrongValueTest : public testing::TestWithParam<Row> {};

TEST_P(WrongValueTest, IsRefused) {
  Keys keys = Required();
  keys[GetParam().key] = GetParam().value;
  const auto config = ParseModelConfig("d/config.json", Json(keys));
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(config.status().message()),
              HasSubstr(absl::StrCat("d/config.json: ", GetParam().key, " ")));
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(Sizes, WrongValueTest,
                         testing::ValuesIn(std::vector<Row>{
                             {"vocab_size", "0", "from 1 to"},
                             {"vocab_size", "-97", "from 1 to"},
                             {"vocab_size", "97.0", "must be an integer"},
                             {"vocab_size", "\"97\"", "must be an integer"},
                             {"vocab_size", "true", "must be an integer"},
                             {"vocab_size", "[97]", "must be an integer"},
                             {"vocab_size", "4294967393", "from 1 to"},
                             {"vocab_size", "18446744073709551615", "from 1 to"},
                             {"vocab_size", "9223372036854775808", "from 1 to"},
                             {"vocab_size", "1e30", "must be an integer"},
                             {"hidden_size", "0", "from 1 to"},
                             {"hidden_size", "-64", "from 1 to"},
                             {"hidden_size", "1000000000", "from 1 to"},
                             {"num_hidden_layers", "0", "from 1 to"},
                             {"num_hidden_layers", "1000000", "from 1 to"},
                             {"num_attention_heads", "0", "from 1 to"},
                             {"num_attention_heads", "-4", "from 1 to"},
                             {"num_attention_heads", "3", "must divide hidden_size"},
                             {"num_attention_heads", "128", "must divide hidden_size"},
                             {"num_key_value_heads", "0", "from 1 to"},
                             {"num_key_value_heads", "3", "must divide num_attention_heads"},
                             {"num_key_value_heads", "8", "must divide num_attention_heads"},
                             {"max_position_embeddings", "0", "from 1 to"},
                             {"max_position_embeddings", "-1", "from 1 to"},
                             {"max_position_embeddings", "4294967296", "from 1 to"},
                         }));

INSTANTIATE_TEST_SUITE_P(Values, WrongValueTest,
                         testing::ValuesIn(std::vector<Row>{
                             {"layer_norm_eps", "0", "from 1e-30 to 1"},
                             {"layer_norm_eps", "-1e-5", "from 1e-30 to 1"},
                             {"layer_norm_eps", "1e-50", "from 1e-30 to 1"},
                             {"layer_norm_eps", "2", "from 1e-30 to 1"},
                             {"layer_norm_eps", "\"1e-5\"", "must be a number"},
                             {"rope_theta", "0", "from 1 to 1e30"},
                             {"rope_theta", "-10000", "from 1 to 1e30"},
                             {"rope_theta", "1e300", "from 1 to 1e30"},
                             {"rope_theta", "{}", "must be a number"},
                             {"use_forward_rope", "1", "must be true or false"},
                             {"use_forward_rope", "\"true\"", "must be true or false"},
                             {"gamma_max", "0", "above 0 and below 1"},
                             {"gamma_max", "-0.5", "above 0 and below 1"},
                             {"gamma_max", "1", "above 0 and below 1"},
                             {"gamma_max", "1.0", "above 0 and below 1"},
                             {"gamma_max", "0.99999999999", "in float32"},
                             {"gamma_max", "\"0.9\"", "must be a number"},
                             {"tie_word_embeddings", "0", "must be true or false"},
                             {"bos_token_id", "97", "from 0 to 96"},
                             {"bos_token_id", "-1", "from 0 to 96"},
                             {"eos_token_id", "97", "from 0 to 96"},
                             {"eos_token_id", "[2]", "must be an integer"},
                             {"torch_dtype", "\"int8\"",
                              "must be float32, bfloat16 or float16, not \"int8\""},
                             {"torch_dtype", "32", "must be a string"},
                             {"model_type", "\"llama\"", "must be \"sessa\""},
                             {"model_type", "7", "must be a string"},
                             {"architectures", "[]", "must be [\"SessaForCausalLM\"]"},
                             {"architectures", "\"SessaForCausalLM\"", "must be [\"SessaForCausalLM\"]"},
                             {"architectures", "[\"LlamaForCausalLM\"]", "must be [\"SessaForCausalLM\"]"},
                             {"tokenizer_file", "\"../tokenizer.model\"", "inside the folder"},
                             {"tokenizer_file", "\"/etc/passwd\"", "inside the folder"},
                             {"tokenizer_file", "\"..\"", "inside the folder"},
                             {"tokenizer_file", "\"a\\u0000b\"", "inside the folder"},
                             {"tokenizer_file", "1", "must be a string"},
                         }));

TEST(ConfigTest, WhatIsNotAnObjectIsRefused) {
  const struct {
    std::string text;
    const char* error;
  } rows[] = {
      {"", "not JSON"},
      {"{", "not JSON"},
      {"[]", "not a JSON object"},
      {"7", "not a JSON object"},
      {"{} {}", "not JSON"},
      {"{\"rope_theta\": 1e999}", "not JSON"},
      {"{\"rope_theta\": NaN}", "not JSON"},
      {"{\"vocab_size\": 1, \"vocab_size\": 2}", "duplicate key \"vocab_size\""},
      {"{\"other\": {\"a\": 1, \"b\": {\"c\": 1, \"c\": 1}}}", "duplicate key \"c\""},
      {"{\"\xff\": 1}", "not JSON"},
      {std::string(100'000, '['), "not JSON"},
      {absl::StrCat("{\"a\":", std::string(100'000, '['), std::string(100'000, ']'), "}"), "nests deeper"},
      {absl::StrCat("{\"a\":", std::string(65, '['), std::string(65, ']'), "}"), "nests deeper"},
      {absl::StrCat("{\"a\":", std::string(64, '['), std::string(64, ']'), "}"), "vocab_size is missing"}};
  for (const auto& row : rows) {
    const auto config = ParseModelConfig("f", row.text);
    ASSERT_FALSE(config.ok()) << row.text.substr(0, 50);
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(absl::StrCat("f: ", row.error)));
  }
}

TEST(ConfigTest, EqualKeysOfDifferentObjectsAreNoDuplicates) {
  Keys keys = Required();
  keys["other"] = "[{\"a\": 1, \"vocab_size\": 2}, {\"a\": 1}]";
  EXPECT_TRUE(ParseModelConfig("f", Json(keys)).ok());
}

TEST(GenerationDefaultsTest, ReadsWhatIsThere) {
  const auto none = ParseGenerationDefaults("f", "{}");
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->temperature || none->top_k || none->top_p || none->min_p || none->repetition_penalty ||
               none->max_new_tokens);
  const auto all = ParseGenerationDefaults(
      "f", R"({"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0, "repetition_penalty": 1.1,
               "max_new_tokens": 512, "do_sample": true})");
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->temperature, 0.7f);
  EXPECT_EQ(all->top_k, 40);
  EXPECT_EQ(all->top_p, 0.9f);
  EXPECT_EQ(all->min_p, 0.0f);
  EXPECT_EQ(all->repetition_penalty, 1.1f);
  EXPECT_EQ(all->max_new_tokens, 512);
}

TEST(GenerationDefaultsTest, WrongValuesAreRefusedByFileAndKey) {
  const struct {
    const char* key;
    std::vector<const char*> values;
  } wrong[] = {{"temperature", {"-1", "1e9", "\"1\""}},
               {"top_k", {"-1", "1.5", "4294967296"}},
               {"top_p", {"0", "1e-60", "1.1", "[]"}},
               {"min_p", {"-0.1", "1.1", "true"}},
               {"repetition_penalty", {"0", "1e-60", "-1", "101"}},
               {"max_new_tokens", {"0", "-1", "1.5", "2147483648"}}};
  for (const auto& [key, values] : wrong) {
    for (const char* value : values) {
      const auto defaults =
          ParseGenerationDefaults("d/generation_config.json", absl::StrCat("{\"", key, "\": ", value, "}"));
      ASSERT_FALSE(defaults.ok()) << key << " " << value;
      EXPECT_THAT(std::string(defaults.status().message()),
                  HasSubstr(absl::StrCat("d/generation_config.json: ", key, " must be ")));
    }
  }
  for (const char* text : {"[]", R"({"top_p": 1, "top_p": 1})"}) {
    EXPECT_FALSE(ParseGenerationDefaults("f", text).ok());
  }
}

}  // namespace
}  // namespace sessa
