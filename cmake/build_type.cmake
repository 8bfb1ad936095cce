# Optimize unless told otherwise: CMake's own default is a build without any -O.
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()

# Without it, zig adds debugging information to every build.
add_compile_options($<$<CONFIG:Release>:-g0>)
add_link_options($<$<CONFIG:Release>:-g0>)

# clang-tidy, clangd and other tools read how each file is compiled from there.
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
