# Headers of Node-API and of its C++ wrapper, both from npm: nothing is downloaded at build time.
find_program(NODE node REQUIRED)
function(lora_node_include package expression out)
  execute_process(COMMAND ${NODE} -p ${expression} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
    OUTPUT_VARIABLE dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "the npm package ${package} is missing: run npm ci first")
  endif()
  set(${out} ${dir} PARENT_SCOPE)
endfunction()
lora_node_include(node-api-headers "require('node-api-headers').include_dir" NODE_API_HEADERS)
lora_node_include(node-addon-api "require('path').resolve(require('node-addon-api').include_dir)" NODE_ADDON_API)

add_library(lora_node_api INTERFACE)
target_include_directories(lora_node_api SYSTEM INTERFACE ${NODE_API_HEADERS} ${NODE_ADDON_API})
target_compile_definitions(lora_node_api INTERFACE NAPI_VERSION=8 NAPI_CPP_EXCEPTIONS
  NODE_ADDON_API_DISABLE_DEPRECATED NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS)
