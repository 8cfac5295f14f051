// The life of a step on the host: what is launched, what is told, and what becomes of failures.
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/kernels/cuda/host_flow_fixture.h"

namespace sessa::cuda {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(HostFlowTest, AStepOfDecodeAndPrefillRowsGivesTokens) {
  Start();
  StepBatch batch = Decoders(3, 70);
  AddPrompt(&batch, 20, Drawn());
  const StepResult result = Step(batch).value();
  EXPECT_THAT(Tokens(result), ElementsAre(TokenAt(71, Shape()), TokenAt(72, Shape()), TokenAt(73, Shape()),
                                          TokenAt(20, Shape())));
  EXPECT_DOUBLE_EQ(result.device_seconds, 2e-3);
  EXPECT_EQ(fake_cuda::CountLaunches("DecodeAttentionKernel"), Shape().layers);
  EXPECT_EQ(fake_cuda::CountLaunches("ScoreKernel"), Shape().layers);
  EXPECT_EQ(fake_cuda::CountLaunches("SampleKernel"), 2);
}

// The first pass of a bucket runs eagerly, the second is captured, later ones are replays.
TEST_F(HostFlowTest, PassesAreCapturedAndReplayed) {
  Start();
  for (int32_t step = 0; step < 4; ++step) {
    EXPECT_THAT(Tokens(Step(Decoders(3, 10 * step)).value()),
                ElementsAre(TokenAt(10 * step + 1, Shape()), TokenAt(10 * step + 2, Shape()),
                            TokenAt(10 * step + 3, Shape())));
  }
  EXPECT_EQ(fake_cuda::CountLaunches("graph"), 3);
  EXPECT_EQ(fake_cuda::CountLaunches("DecodeAttentionKernel"), 2 * Shape().layers);
}

// With and without outputs there are two passes of a bucket; outputs of some rows are as many as rows.
TEST_F(HostFlowTest, AGraphServesStepsThatWantFewerOutputs) {
  Start();
  for (const int32_t wanted : {4, 2, 0, 3, 0, 1, 0}) {
    SCOPED_TRACE(wanted);
    StepBatch batch = Decoders(4, wanted);
    batch.outputs.erase(batch.outputs.begin(), batch.outputs.end() - wanted);
    const std::vector<int32_t> tokens = Tokens(Step(batch).value());
    ASSERT_EQ(tokens.size(), wanted);
    for (int32_t i = 0; i < wanted; ++i) EXPECT_EQ(tokens[i], TokenAt(wanted + 4 - wanted + i + 1, Shape()));
  }
  EXPECT_EQ(fake_cuda::CountLaunches("graph"), 3 + 2);
  EXPECT_EQ(fake_cuda::CountLaunches("DecodeAttentionKernel"), 2 * 2 * Shape().layers);
}

TEST_F(HostFlowTest, ASecondStepIsLaunchedBeforeTheFirstIsCollected) {
  for (const int32_t rows : {1, 3}) {  // the few-rows kernel; graphs
    SCOPED_TRACE(rows);
    Model& model = Start();
    std::vector<StepBatch> batches;
    for (int32_t step = 0; step < 6; ++step) {
      batches.push_back(Decoders(rows, step));
      for (int32_t i = 0; i < rows; ++i) {
        batches.back().outputs[i].slot = i;
        if (step > 0) batches.back().segments[i].token_slot = i;
      }
    }
    model.Launch(batches[0]);
    for (int32_t step = 1; step <= 6; ++step) {
      if (step < 6) model.Launch(batches[step]);
      const std::vector<int32_t> tokens = Tokens(model.Collect().value());
      for (int32_t i = 0; i < rows; ++i) EXPECT_EQ(tokens[i], TokenAt(step + i, Shape()));
    }
    model_.reset();
  }
}

TEST_F(HostFlowTest, EveryAllocationAtStartMayFail) {
  for (void (*fail)(int) : {fake_cuda::FailDeviceAllocation, fake_cuda::FailPinnedAllocation}) {
    int32_t failures = 0;
    for (;; ++failures) {
      fail(failures);
      auto ops = Create(Options());
      const absl::Status status = ops.ok() ? (*ops)->AllocateState(kPages, kOpenPages) : ops.status();
      fail(-1);
      ops = absl::UnknownError("");
      if (status.ok()) break;
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("asked for")) << failures;
      ASSERT_EQ(fake_cuda::LivingObjects(), 0) << failures;
    }
    EXPECT_GT(failures, 5);
  }
}

TEST_F(HostFlowTest, TooLittleMemorySaysAskedFreeAndNeeded) {
  fake_cuda::Machine machine;
  machine.memory = int64_t{64} << 20;
  fake_cuda::Reset(machine);
  EXPECT_THAT(Create(Options()).status().ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("asked for"), HasSubstr("free are")));
  machine.memory = int64_t{2} << 30;
  fake_cuda::Reset(machine);
  auto ops = Create(Options());
  ASSERT_EQ(ops.status().ToString(), "OK");
  EXPECT_THAT((*ops)->AllocateState(1 << 20, 4).ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("asked for"), HasSubstr("free are"),
                    HasSubstr("needed are")));
  EXPECT_EQ((*ops)->AllocateState(2, 4).ToString(), "OK");
}

TEST_F(HostFlowTest, ALaunchThatFailsIsFinal) {
  Start();
  ASSERT_TRUE(Step(Decoders(3, 0)).ok());
  fake_cuda::FailLaunch("DecodeAttentionKernel", cudaErrorLaunchFailure);
  const absl::Status failed = Step(Decoders(3, 1)).status();
  EXPECT_THAT(failed.ToString(), AllOf(HasSubstr("INTERNAL"), HasSubstr("attention"), HasSubstr("719")));
  fake_cuda::FailLaunch("", cudaSuccess);
  const size_t launches = fake_cuda::Launches().size();
  EXPECT_EQ(Step(Decoders(3, 2)).status(), failed) << "it stays";
  EXPECT_EQ(fake_cuda::Launches().size(), launches) << "nothing more is asked of the device";
}

TEST_F(HostFlowTest, AFaultOfTheDeviceIsFinal) {
  Model& model = Start();
  const StepBatch first = Decoders(3, 0), second = Decoders(3, 1);
  model.Launch(first);
  model.Launch(second);
  fake_cuda::FailWaiting(cudaErrorIllegalAddress);
  const absl::Status fault = model.Collect().status();
  EXPECT_THAT(fault.ToString(), AllOf(HasSubstr("INTERNAL"), HasSubstr("700")));
  EXPECT_EQ(model.Collect().status(), fault);
}

TEST_F(HostFlowTest, WhereNoCardAnswersTheBackendIsUnavailable) {
  for (const auto& [devices, driver] : {std::pair(0, 13000), std::pair(1, 0), std::pair(1, 11080)}) {
    fake_cuda::Machine machine;
    machine.devices = devices;
    machine.driver = driver;
    fake_cuda::Reset(machine);
    EXPECT_EQ(Create(Options()).status().code(), absl::StatusCode::kUnavailable);
  }
}

TEST_F(HostFlowTest, TheDescriptionSaysWhichKernelsRun) {
  const auto describe = [&](const ModelShape& shape, StateDtype state, int ptx_version) {
    fake_cuda::Machine machine;
    machine.ptx_version = ptx_version;
    fake_cuda::Reset(machine);
    OpsOptions options = Options();
    options.state_dtype = state;
    return Create(options, shape).value()->info().description;
  };
  const ModelShape heads_of_64 = MakeShape(128, 1, 2, 1, 97), heads_of_16 = Shape(),
                   odd = MakeShape(90, 1, 5, 1, 97);
  constexpr StateDtype kCompact = StateDtype::kCompact;
  EXPECT_THAT(describe(heads_of_64, kCompact, 90),
              HasSubstr("split-KV decode attention, tensor-core prefill;"));
  EXPECT_THAT(describe(heads_of_16, kCompact, 90),
              HasSubstr("tensor-core (plain forward attention) prefill;"));
  EXPECT_THAT(describe(heads_of_64, kCompact, 80),
              HasSubstr("split-KV decode attention, plain (slow) prefill;"));
  EXPECT_THAT(describe(odd, kCompact, 90),
              HasSubstr("generic (slow) decode attention, plain (slow) prefill;"));
  EXPECT_THAT(
      describe(heads_of_64, StateDtype::kF32, 90),
      HasSubstr("generic (slow) decode attention, plain (slow) prefill, both because state is in float32;"));
}

TEST_F(HostFlowTest, StepsOfMoreRowsThanTheWorkspaceIsMeantForAreRefused) {
  OpsOptions options = Options();
  options.max_rows = 16384;
  EXPECT_EQ(Create(options).status().ToString(), "OK");
  options.max_rows = 16385;
  EXPECT_THAT(
      Create(options).status().ToString(),
      AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("--max_batch_tokens=16385"), HasSubstr("16384")));
}

TEST_F(HostFlowTest, ACardThatIsNotThereIsRefusedByItsNumber) {
  fake_cuda::Machine machine;
  machine.devices = 2;
  fake_cuda::Reset(machine);
  OpsOptions options = Options();
  for (const int32_t device : {2, 99, -1}) {
    options.device = device;
    EXPECT_THAT(Create(options).status().ToString(),
                AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(absl::StrCat("--device=", device)),
                      HasSubstr("2 cards")));
  }
}

// The engine's thread is not the one that created the backend, and every thread begins with device 0.
TEST_F(HostFlowTest, AnotherThreadRunsOnTheDeviceOfTheOptions) {
  fake_cuda::Machine machine;
  machine.devices = 2;
  fake_cuda::Reset(machine);
  OpsOptions options = Options();
  options.device = 1;
  auto ops = Create(options);
  ASSERT_EQ(ops.status().ToString(), "OK");
  const auto on_another_thread = [](const auto& work) { std::thread(work).join(); };
  on_another_thread([&] { EXPECT_EQ((*ops)->AllocateState(kPages, kOpenPages).ToString(), "OK"); });
  model_ = std::make_unique<Model>(*std::move(ops));
  on_another_thread([&] { model_->ops().FillState(1); });
  for (int32_t step = 0; step < 3; ++step) {  // eager, captured, replayed
    StepBatch batch = Decoders(3, step);
    AddPrompt(&batch, 20, Drawn());
    on_another_thread([&] { model_->Launch(batch); });
    on_another_thread([&] { EXPECT_EQ(model_->Collect().status().ToString(), "OK"); });
  }
  on_another_thread([&] { EXPECT_GT(model_->ops().AvailableStateBytes(), 0); });
  EXPECT_EQ(fake_cuda::UsedMemory(0), 0);
  for (const fake_cuda::Launch& launch : fake_cuda::Launches()) EXPECT_EQ(launch.device, 1) << launch.kernel;
  on_another_thread([&] { model_.reset(); });
}

}  // namespace
}  // namespace sessa::cuda
