# Kernels by themselves, against float64; the tests skip where there is no card.
if(NOT TARGET sessa_cuda_prefill)
  return()
endif()
set(CMAKE_CUDA_COMPILER ${SESSA_NVCC})
set(CMAKE_CUDA_ARCHITECTURES OFF)  # named by sessa_cuda_options
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
find_package(CUDAToolkit REQUIRED)

add_library(sessa_prefill_testing STATIC prefill_fixture.cc prefill_reference.cu)
target_link_libraries(sessa_prefill_testing PUBLIC sessa_cuda_prefill)
sessa_test(prefill_test SOURCES prefill_test.cc prefill_linear_test.cc DEPS sessa_prefill_testing)
sessa_program(prefill_bench SOURCES prefill_bench.cc DEPS sessa_prefill_testing CUDA::cublasLt)
sessa_test(decode_attention_test SOURCES decode_attention_test.cc decode_case.cc decode_case_check.cc decode_feedback_test.cc
  DEPS sessa_cuda_kernels sessa_cuda_tables absl::strings)
