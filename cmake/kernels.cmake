# The library fastupdate_kernels: registry, engine and rules, once per instruction set. It knows nothing of Python.

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

include(${CMAKE_CURRENT_LIST_DIR}/rules.cmake)
one_for_each_rule(${csrc}/cpu/rule.cpp.in cpp rule_sources)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(isa_levels v2 v3 v4)
else()
  set(isa_levels baseline)
endif()
set(target_list "")
foreach(level IN LISTS isa_levels)
  string(APPEND target_list "FASTUPDATE_ENTRY(${level})\n")
endforeach()
file(CONFIGURE OUTPUT ${generated}/targets.inc CONTENT "${target_list}")

# The same bits everywhere: no contraction, no fast-math. The two -fno flags drop errno and traps, not accuracy.
add_library(fastupdate_options INTERFACE)
target_include_directories(fastupdate_options INTERFACE ${csrc} ${generated})
target_compile_options(
  fastupdate_options INTERFACE -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd -Wall -Wextra -Wshadow)

add_library(fastupdate_kernels STATIC ${csrc}/cpu/registry.cpp)
target_link_libraries(fastupdate_kernels PUBLIC fastupdate_options)
# A few cache lines that a loop clears are cleared faster by that loop than by memset.
set(loops_stay_loops $<$<CXX_COMPILER_ID:GNU>:-fno-tree-loop-distribute-patterns>)
foreach(level IN LISTS isa_levels)
  add_library(cpu_${level} OBJECT ${csrc}/cpu/target.cpp ${rule_sources})
  target_link_libraries(cpu_${level} PRIVATE fastupdate_options)
  target_compile_definitions(cpu_${level} PRIVATE FASTUPDATE_TARGET=${level})
  target_compile_options(cpu_${level} PRIVATE -O3 -fno-exceptions ${loops_stay_loops}) # nothing there throws
  if(NOT level STREQUAL baseline)
    target_compile_options(cpu_${level} PRIVATE -march=x86-64-${level})
  endif()
  target_sources(fastupdate_kernels PRIVATE $<TARGET_OBJECTS:cpu_${level}>)
endforeach()
if("v4" IN_LIST isa_levels)
  target_compile_options(cpu_v4 PRIVATE -mprefer-vector-width=512)
endif()
