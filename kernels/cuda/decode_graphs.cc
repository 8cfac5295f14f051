#include "kernels/cuda/decode_graphs.h"

namespace sessa::cuda {

DecodeGraphs::Action DecodeGraphs::Next(const Pass& pass) {
  const auto [entry, fresh] = graphs_.try_emplace(pass, nullptr);
  if (fresh) return Action::kRunEagerly;
  return entry->second == nullptr ? Action::kCapture : Action::kReplay;
}

cudaError_t DecodeGraphs::BeginCapture(cudaStream_t stream) {
  return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}

cudaError_t DecodeGraphs::EndCapture(const Pass& pass, cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) return error;
  cudaGraphExec_t exec = nullptr;
  error = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  if (error != cudaSuccess) return error;
  graphs_[pass] = exec;
  return cudaSuccess;
}

cudaError_t DecodeGraphs::Launch(const Pass& pass, cudaStream_t stream) {
  return cudaGraphLaunch(graphs_.at(pass), stream);
}

void DecodeGraphs::Clear() {
  for (auto& [pass, exec] : graphs_) {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
  }
  graphs_.clear();
}

}  // namespace sessa::cuda
