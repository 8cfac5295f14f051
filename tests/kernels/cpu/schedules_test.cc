// Bit for bit the same alone and in company, for some thousand random schedules: sessions of random lengths,
// cut into random chunks beside random others, truncated and computed again, on 1 to 3 threads.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "tests/kernels/company.h"
#include "tests/kernels/cpu/instruction_sets.h"

namespace sessa {
namespace {

using cpu::InstructionSet;

template <InstructionSet kSet>
absl::StatusOr<std::unique_ptr<Ops>> CreateWith(const ModelShape& shape, const ModelTensors& tensors,
                                                const OpsOptions& options) {
  return CreateCpuOpsWith(kSet, shape, tensors, options);
}

CreateOpsFn CreatorFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return CreateWith<InstructionSet::kPortable>;
    case InstructionSet::kAvx2:
      return CreateWith<InstructionSet::kAvx2>;
    case InstructionSet::kAvx512:
      return CreateWith<InstructionSet::kAvx512>;
    case InstructionSet::kAvx512BF16:
      break;
  }
  return CreateWith<InstructionSet::kAvx512BF16>;
}

ModelShape Shape(int32_t width, int32_t heads, int32_t kv_heads, bool rope = true) {
  ModelShape shape;
  shape.vocab = 97;
  shape.width = width;
  shape.layers = 2;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.use_rope = rope;
  return shape;
}

#if defined(__SANITIZE_THREAD__)
constexpr uint32_t kShare = 10;  // of the schedules: threads meet in each of them
#else
constexpr uint32_t kShare = 1;
#endif

class CpuSchedulesTest : public testing::TestWithParam<cpu::NamedSet> {
 protected:
  // The set that serves on this machine goes through a thousand schedules, the others through some. The
  // portable one is twenty times slower, so that where it serves a tenth must do.
  uint32_t Count(uint32_t all, uint32_t some) const {
    if (GetParam().set != cpu::DetectInstructionSet()) return some;
    return GetParam().set == InstructionSet::kPortable ? all / 10 : all;
  }

  void Run(const ModelShape& shape, CompanyOptions options, uint32_t first_seed, uint32_t count) {
    count = (count + kShare - 1) / kShare;
    for (uint32_t seed = first_seed; seed < first_seed + count; ++seed) {
      options.cpu_threads = 1 + seed % 3;
      options.state_dtype = seed % 2 == 0 ? StateDtype::kCompact : StateDtype::kF32;
      ASSERT_EQ(CompanyDifference(CreatorFor(GetParam().set), shape, options, seed), "");
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Sets, CpuSchedulesTest, testing::ValuesIn(cpu::RunnableSets()),
                         [](const auto& info) { return cpu::SetName(info.param); });

TEST_P(CpuSchedulesTest, SmallShapes) {
  const uint32_t count = Count(190, GetParam().set == InstructionSet::kPortable ? 3 : 10);
  CompanyOptions options;
  Run(Shape(64, 4, 2), options, 0, count);
  Run(Shape(72, 1, 1), options, 1000, count);
  Run(Shape(84, 7, 1), options, 2000, count);
  Run(Shape(36, 6, 6), options, 3000, count);
  Run(Shape(13, 1, 1, /*rope=*/false), options, 4000, count);
}

TEST_P(CpuSchedulesTest, RecallShape) {
  ModelShape shape = Shape(384, 6, 2);
  shape.vocab = 1024;
  shape.tied_head = true;
  CompanyOptions options;
  options.sessions = 4;
  options.max_tokens = 330;
  Run(shape, options, 0, Count(30, 1));
}

TEST_P(CpuSchedulesTest, LongSessions) {
  CompanyOptions options;
  options.sessions = 3;
  options.max_tokens = 1000;
  Run(Shape(36, 3, 1), options, 0, Count(30, 1));
}

TEST_P(CpuSchedulesTest, ManySessions) {
  CompanyOptions options;
  options.sessions = 40;
  options.max_tokens = 90;
  Run(Shape(72, 4, 2), options, 0, Count(20, 2));
}

}  // namespace
}  // namespace sessa
