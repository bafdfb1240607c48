# lora_unity(TARGET UNIT FILE...): compiles the files as one, named after the unit. Each still compiles alone
# (LORA_UNITY=OFF, scripts/neon-check.sh, scripts/clang-check.sh).
function(lora_unity target unit)
  if(LORA_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
    set_source_files_properties(${ARGN} TARGET_DIRECTORY ${target} PROPERTIES UNITY_GROUP ${unit})
  endif()
endfunction()
# lora_unity_by_letter(TARGET LETTERS FILE...): units by the first letter of a file, for "a-k;l-z" two.
function(lora_unity_by_letter target letters)
  foreach(range ${letters})
    set(files ${ARGN})
    list(FILTER files INCLUDE REGEX "(/|^)[${range}][^/]*$")
    if(files)
      lora_unity(${target} ${range} ${files})
    endif()
  endforeach()
endfunction()
