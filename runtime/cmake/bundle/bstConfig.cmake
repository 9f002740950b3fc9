# find_package(bst CONFIG) in a bundle of `bestdeploy compile`:
#   bst::bst         the shared library lib/libbst.so
#   bst::bst_static  the static library lib/libbst.a, position independent
# Give the bundle with -DCMAKE_PREFIX_PATH=BUNDLE; it may be moved as a whole.
if(TARGET bst::bst)
  return()
endif()
get_filename_component(_bst_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
foreach(_bst_file lib/libbst.so lib/libbst.a include/bst.h)
  if(NOT EXISTS "${_bst_prefix}/${_bst_file}")
    set(bst_FOUND FALSE)
    set(bst_NOT_FOUND_MESSAGE "the bundle ${_bst_prefix} lacks ${_bst_file}")
    unset(_bst_prefix)
    return()
  endif()
endforeach()

include(CMakeFindDependencyMacro)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_dependency(Threads)

add_library(bst::bst SHARED IMPORTED)
set_target_properties(bst::bst PROPERTIES
  IMPORTED_LOCATION "${_bst_prefix}/lib/libbst.so"
  IMPORTED_SONAME "libbst.so"
  INTERFACE_INCLUDE_DIRECTORIES "${_bst_prefix}/include")
add_library(bst::bst_static STATIC IMPORTED)
set_target_properties(bst::bst_static PROPERTIES
  IMPORTED_LOCATION "${_bst_prefix}/lib/libbst.a"
  IMPORTED_LINK_INTERFACE_LANGUAGES "C"
  INTERFACE_LINK_LIBRARIES Threads::Threads
  INTERFACE_INCLUDE_DIRECTORIES "${_bst_prefix}/include")
unset(_bst_prefix)
unset(_bst_file)
