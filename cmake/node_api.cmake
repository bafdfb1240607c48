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

if(WIN32)
  # The import library of Node-API. The name that it looks for is answered by windows/delay_load.cc.
  lora_node_include(node-api-headers "require('node-api-headers').def_paths.node_api_def" NODE_API_DEF)
  find_program(LORA_DLLTOOL NAMES x86_64-w64-mingw32-dlltool dlltool REQUIRED)
  set(import ${CMAKE_BINARY_DIR}/libnode.a)
  add_custom_command(OUTPUT ${import}
    COMMAND ${LORA_DLLTOOL} -d ${NODE_API_DEF} -D node.exe --output-delaylib ${import}
    DEPENDS ${NODE_API_DEF}
    VERBATIM)
  add_custom_target(lora_node_import_file DEPENDS ${import})
  add_library(lora_node_import INTERFACE)
  add_dependencies(lora_node_import lora_node_import_file)
  target_sources(lora_node_import INTERFACE ${PROJECT_SOURCE_DIR}/native/node/windows/delay_load.cc)
  target_link_libraries(lora_node_import INTERFACE ${import} delayimp)
endif()

# lora_addon(TARGET FOLDER): what a module must be for Node to load it as TARGET.node in FOLDER.
function(lora_addon target folder)
  set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX ".node" LIBRARY_OUTPUT_DIRECTORY ${folder})
  if(APPLE)
    # The process that loads it brings Node-API.
    target_link_options(${target} PRIVATE -Wl,-undefined,dynamic_lookup -Wl,-exported_symbol,_napi_register_module_v1
      -Wl,-exported_symbol,_node_api_module_get_api_version_v1)
  elseif(WIN32)
    target_link_libraries(${target} PRIVATE lora_node_import)
  else()
    # now: a missing symbol is an error at load, not an end of the process at the first call.
    # The version script keeps the templates of the C++ library that we instantiate from being joined with those of
    # Node or of another add-on, which may come from another version of that library.
    set(exports ${PROJECT_SOURCE_DIR}/cmake/exports.map)
    target_link_options(${target} PRIVATE -Wl,-z,now -Wl,--version-script=${exports})
    set_target_properties(${target} PROPERTIES LINK_DEPENDS ${exports})
  endif()
endfunction()
