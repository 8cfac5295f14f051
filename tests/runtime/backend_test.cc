#include "runtime/backend.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/random_weights.h"

namespace sessa {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

ModelShape SmallShape() {
  ModelShape shape;
  shape.vocab = 97;
  shape.width = 64;
  shape.layers = 1;
  shape.heads = 4;
  shape.kv_heads = 2;
  return shape;
}

TEST(CreateBackend, MakesTheOneThatIsNamed) {
  const RandomWeights weights(SmallShape(), 1);
  for (const char* name : {"reference", "cpu"}) {
    absl::StatusOr<Backend> backend = CreateBackend(name, SmallShape(), weights.tensors(), OpsOptions());
    ASSERT_TRUE(backend.ok()) << backend.status();
    EXPECT_EQ(backend->ops->info().name, name);
    EXPECT_EQ(backend->note, "");
  }
}

TEST(CreateBackend, AutoFallsBackToTheCpuAndSaysWhy) {
  const RandomWeights weights(SmallShape(), 1);
  absl::StatusOr<Backend> backend = CreateBackend("auto", SmallShape(), weights.tensors(), OpsOptions());
  ASSERT_TRUE(backend.ok()) << backend.status();
  ASSERT_THAT(backend->ops->info().name, AnyOf("cpu", "cuda"));
  if (backend->ops->info().name == "cpu") {
    EXPECT_THAT(backend->note, HasSubstr("cuda is not used: "));
  }
}

TEST(CreateBackend, RefusesAnUnknownName) {
  const RandomWeights weights(SmallShape(), 1);
  const absl::Status status = CreateBackend("gpu", SmallShape(), weights.tensors(), OpsOptions()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"gpu\""));
}

}  // namespace
}  // namespace sessa
