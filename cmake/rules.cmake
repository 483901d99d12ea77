# The rules and stages as C++: fastupdate/rules/emit writes ${generated}/rules/x.h for each fastupdate/rules/x.py and
# ${generated}/stages.h, again when one of them changes. Needs Python alone. Sets `rules`, the list of names, from which
# registries are made.
cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH root)
set(csrc ${root}/csrc)
set(generated ${PROJECT_BINARY_DIR}/generated)

find_package(Python 3.11 REQUIRED COMPONENTS Interpreter)
file(GLOB rule_files CONFIGURE_DEPENDS ${root}/fastupdate/rules/*.py ${root}/fastupdate/rules/emit/*.py
     ${root}/fastupdate/stages/*.py)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${rule_files})
execute_process(
  COMMAND ${Python_EXECUTABLE} -I ${root}/fastupdate/rules/emit ${generated}
  OUTPUT_VARIABLE rules OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_VARIABLE refusal RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${refusal}")
endif()
string(REPLACE "\n" ";" rules "${rules}")

set(rule_list "")
foreach(RULE IN LISTS rules)
  string(APPEND rule_list "FASTUPDATE_ENTRY(${RULE})\n")
endforeach()
file(CONFIGURE OUTPUT ${generated}/rules.inc CONTENT "${rule_list}")

# One translation unit per rule, made from a template: the list of their paths.
function(one_for_each_rule template suffix result)
  set(sources "")
  foreach(RULE IN LISTS rules)
    configure_file(${template} ${generated}/${RULE}.${suffix} @ONLY)
    list(APPEND sources ${generated}/${RULE}.${suffix})
  endforeach()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()
