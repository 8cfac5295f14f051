# The backend's host code with a stand-in for CUDA: these run wherever the toolkit is, card or not.
if(NOT TARGET sessa_cuda_backend)
  return()
endif()

# Objects, so that the linker finds them before what the kernels' libraries ask for.
add_library(sessa_fake_cuda OBJECT fake_cublaslt.cc fake_cuda.cc fake_cuda_memory.cc)
target_link_libraries(sessa_fake_cuda PUBLIC sessa_cuda_backend)
sessa_test(cuda_host_flow_test SOURCES host_flow_test.cc host_rows_test.cc DEPS sessa_fake_cuda sessa_cuda_plugin sessa_step_timer sessa_runtime)
sessa_test(cuda_launchers_test SOURCES launchers_test.cc DEPS sessa_fake_cuda)
sessa_test(prefill_plan_test SOURCES prefill_plan_test.cc DEPS sessa_fake_cuda)
# The same test as on the card, of loops on the host: of the test itself.
sessa_test(decode_attention_host_test SOURCES decode_attention_test.cc decode_case.cc decode_case_check.cc decode_feedback_test.cc
  host_attention.cc
  DEPS sessa_fake_cuda)
set_property(TEST decode_attention_host_test APPEND PROPERTY ENVIRONMENT SESSA_CUDA_QUICK=1)
