#include "runtime/backend.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
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

template <absl::StatusCode kCode>
absl::StatusOr<std::unique_ptr<Ops>> Fails(const ModelShape&, const ModelTensors&, const OpsOptions&) {
  return absl::Status(kCode, "what the card said");
}

absl::StatusOr<Backend> Auto(CreateOpsFn cuda) {
  const RandomWeights weights(SmallShape(), 1);
  const BackendCandidate candidates[] = {{"cuda", cuda, true}, {"cpu", CreateCpuOps, true}};
  return ChooseBackend(candidates, "auto", SmallShape(), weights.tensors(), OpsOptions());
}

TEST(ChooseBackend, AutoPassesOverWhatIsNotThereOrCannotRunTheShape) {
  for (const CreateOpsFn cuda :
       {Fails<absl::StatusCode::kUnavailable>, Fails<absl::StatusCode::kUnimplemented>}) {
    const absl::StatusOr<Backend> backend = Auto(cuda);
    ASSERT_TRUE(backend.ok()) << backend.status();
    EXPECT_EQ(backend->ops->info().name, "cpu");
    EXPECT_EQ(backend->note, "cuda is not used: what the card said");
  }
}

TEST(ChooseBackend, AutoFailsWhereTheDeviceFails) {
  for (const CreateOpsFn cuda :
       {Fails<absl::StatusCode::kResourceExhausted>, Fails<absl::StatusCode::kInvalidArgument>,
        Fails<absl::StatusCode::kInternal>}) {
    const absl::Status status = Auto(cuda).status();
    EXPECT_EQ(status, cuda({}, {}, {}).status());
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
