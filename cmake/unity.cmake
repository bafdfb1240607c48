# lora_unity(TARGET UNIT FILE...): compiles the files as one, named after the unit. Each still compiles alone
# (LORA_UNITY=OFF, scripts/neon-check.sh, scripts/clang-check.sh).
function(lora_unity target unit)
  if(LORA_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
    set_source_files_properties(${ARGN} TARGET_DIRECTORY ${target} PROPERTIES UNITY_GROUP ${unit})
  endif()
endfunction()
