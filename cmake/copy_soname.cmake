# Copies a shared library to DESTINATION under its SONAME-style file name (libhwy.so → libhwy.so.1).
get_filename_component(real ${LINKED} REALPATH)
get_filename_component(dir ${LINKED} DIRECTORY)
get_filename_component(base ${LINKED} NAME)
file(GLOB candidates ${dir}/${base}.?)
foreach(candidate ${candidates})
  get_filename_component(name ${candidate} NAME)
  file(COPY_FILE ${real} ${DESTINATION}/${name} ONLY_IF_DIFFERENT)
endforeach()
