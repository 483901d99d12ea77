# fastupdate._cuda, the CUDA engine, where there is a CUDA compiler. Variables of CMake or of the environment:
#   FASTUPDATE_CUDA        AUTO (default): build it if a CUDA compiler is found; ON: or fail; OFF: do not
#   FASTUPDATE_CUDA_ARCHS  CMake's CUDA_ARCHITECTURES, or `wheel`: machine code from sm_75 to sm_120, and PTX for what
#                          comes later. Default: that of this machine's GPUs; if it has none, PTX from sm_75 on, which
#                          is soon built and compiled by the driver when it is first used: one of this toolkit's CUDA or
#                          newer. Machine code runs on any driver of the major version, but for each architecture it takes
#                          longer to build than PTX does, and several times the space
foreach(variable FASTUPDATE_CUDA FASTUPDATE_CUDA_ARCHS)
  if(NOT DEFINED ${variable})
    set(${variable} "$ENV{${variable}}")
  endif()
endforeach()
if(NOT FASTUPDATE_CUDA MATCHES "^(AUTO|ON|OFF|)$")
  message(FATAL_ERROR "FASTUPDATE_CUDA: expected AUTO, ON or OFF, received ${FASTUPDATE_CUDA}")
elseif(FASTUPDATE_CUDA STREQUAL "OFF")
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(FASTUPDATE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTUPDATE_CUDA=ON, but CMake finds no CUDA compiler that works; CUDACXX names one")
  endif()
  message(STATUS "fastupdate: no CUDA compiler, so no CUDA engine")
  return()
endif()

if(NOT FASTUPDATE_CUDA_ARCHS)
  if(EXISTS /dev/nvidiactl)
    set(FASTUPDATE_CUDA_ARCHS native)
  else()
    set(FASTUPDATE_CUDA_ARCHS 75-virtual)
    message(STATUS "fastupdate: no GPU here, so PTX alone, for drivers of this toolkit's CUDA or newer; "
                   "FASTUPDATE_CUDA_ARCHS names architectures to build machine code for")
  endif()
elseif(FASTUPDATE_CUDA_ARCHS STREQUAL "wheel")
  set(FASTUPDATE_CUDA_ARCHS 75-real 80-real 86-real 89-real 90-real 100-real 120)
endif()
set(CMAKE_CUDA_ARCHITECTURES ${FASTUPDATE_CUDA_ARCHS})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
enable_language(CUDA)

one_for_each_rule(${csrc}/cuda/rule.cu.in cu cuda_sources)
pybind11_add_module(
  _cuda NO_EXTRAS csrc/python/cuda_module.cpp csrc/python/cuda_plan.cpp csrc/cuda/runtime.cu csrc/cuda/kernels.cu ${cuda_sources})
target_include_directories(_cuda PRIVATE ${csrc} ${generated})
list(JOIN FASTUPDATE_CUDA_ARCHS ", " shown_archs)
target_compile_definitions(_cuda PRIVATE FASTUPDATE_TARGET=cuda "FASTUPDATE_CUDA_ARCHITECTURES=\"${shown_archs}\"")
# The same bits as on the CPU: no contraction, no flushing, correctly rounded division and roots.
target_compile_options(
  _cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;-ftz=false;-prec-div=true;-prec-sqrt=true;-Xcompiler=-ffp-contract=off>"
                "$<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off;-fopenmp-simd;-Wall;-Wextra>")
install(TARGETS _cuda DESTINATION fastupdate)
