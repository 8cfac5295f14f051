// A Sessa model over a backend: the layer loop of docs/sessa-model.md, written once against kernels/ops.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace sessa {

// Engine-thread only.
class Model {
 public:
  explicit Model(std::unique_ptr<Ops> ops);

  // Starts a step; `batch` stays unchanged until its Collect. At most info().steps_in_flight steps at once.
  void Launch(const StepBatch& batch);
  // Waits for the oldest step that was not collected. An error is final: the backend is unusable.
  absl::StatusOr<StepResult> Collect();

  Ops& ops() { return *ops_; }
  const Ops& ops() const { return *ops_; }
  const ModelShape& shape() const { return ops_->layout().shape; }

 private:
  void RunLayers();
  void RunHead();

  const std::unique_ptr<Ops> ops_;
  double cpu_seconds_ = 0;         // of this thread, in ops, not told yet
  double worker_cpu_seconds_ = 0;  // of the backend's own threads, told so far
};

}  // namespace sessa
