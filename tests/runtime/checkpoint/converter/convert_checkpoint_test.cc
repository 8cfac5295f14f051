// Golden cases through torch.save, tools/convert_checkpoint.py and the loader: the same models come out.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/checkpoint/checkpoint.h"

namespace sessa {
namespace {

class ConvertCheckpointTest : public testing::Test {
 protected:
  // Importing torch takes seconds, so one process makes every folder.
  static void SetUpTestSuite() {
    char name[] = "/tmp/sessa_convert_test.XXXXXX";
    dir_ = mkdtemp(name);
    const std::string command =
        absl::StrCat("/usr/bin/python3 -B tests/runtime/checkpoint/converter/make_folders.py ", dir_);
    ASSERT_EQ(std::system(command.c_str()), 0);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(dir_); }

  std::unique_ptr<Checkpoint> Load(const std::string& folder) {
    auto checkpoint = LoadCheckpoint(folder);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
  }
  std::unique_ptr<Checkpoint> Converted(const std::string& name) {
    return Load(absl::StrCat(dir_, "/", name));
  }
  std::unique_ptr<Checkpoint> Golden(const std::string& name) {
    return Load(absl::StrCat("tests/golden/", name));
  }

  // The fingerprint covers every constant and every bit of every tensor.
  void ExpectSame(const std::string& converted, const std::string& golden) {
    const auto a = Converted(converted), b = Golden(golden);
    ASSERT_TRUE(a != nullptr && b != nullptr);
    EXPECT_EQ(a->fingerprint(), b->fingerprint()) << converted;
    EXPECT_EQ(a->config().max_positions, b->config().max_positions);
    EXPECT_EQ(a->config().bos_token, b->config().bos_token);
    EXPECT_EQ(a->config().eos_token, b->config().eos_token);
  }

  static std::string dir_;
};

std::string ConvertCheckpointTest::dir_;

TEST_F(ConvertCheckpointTest, HoweverItWasSaved) {
  for (const char* name : {"plain", "buffers", "wrapped", "shards", "renamed", "without_model_prefix",
                           "double", "strided", "tokenizer"}) {
    ExpectSame(name, "base");
  }
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/shards/model.safetensors.index.json"));
  EXPECT_EQ(Converted("tokenizer")->tokenizer_path(), dir_ + "/tokenizer/tokenizer.model");
}

TEST_F(ConvertCheckpointTest, EveryKindOfModel) {
  for (const char* name : {"single_head_no_rope", "mha_two_pages", "mqa_previous_token"})
    ExpectSame(name, name);
}

TEST_F(ConvertCheckpointTest, ATiedHeadIsNotStored) {
  ExpectSame("tied", "tied_head");
  ExpectSame("tied_stored", "tied_head");
}

float Widen(DType dtype, uint16_t bits) {
  if (dtype == DType::kBF16) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
  }
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                   : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return (bits >> 15) != 0 ? -size : size;
}

TEST_F(ConvertCheckpointTest, NarrowTypesAreRoundedToTheNearest) {
  const auto golden = Golden("base");
  const struct {
    const char* name;
    DType dtype;
    float half_step;   // relative: at most half a unit in the last place
    float half_least;  // absolute: half the least number (fp16 has subnormal ones that occur)
  } rows[] = {{"bfloat16", DType::kBF16, 0x1p-8f, 0}, {"float16", DType::kF16, 0x1p-11f, 0x1p-25f}};
  for (const auto& row : rows) {
    const auto converted = Converted(row.name);
    ASSERT_NE(converted, nullptr);
    EXPECT_EQ(converted->weights_dtype(), row.dtype);
    EXPECT_EQ(converted->config().torch_dtype, row.dtype);
    const TensorView& wide = golden->tensors().embed;
    const TensorView& narrow = converted->tensors().embed;
    ASSERT_EQ(narrow.dims, wide.dims);
    for (int64_t i = 0; i < wide.dims[0] * wide.dims[1]; ++i) {
      const float exact = static_cast<const float*>(wide.data)[i];
      const float rounded = Widen(row.dtype, static_cast<const uint16_t*>(narrow.data)[i]);
      ASSERT_LE(std::abs(rounded - exact), std::max(std::abs(exact) * row.half_step, row.half_least)) << i;
    }
  }
}

}  // namespace
}  // namespace sessa
