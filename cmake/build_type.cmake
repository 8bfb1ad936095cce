# Optimize unless told otherwise: CMake's own default is a build without any -O.
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()

# clang-tidy, clangd and other tools read how each file is compiled from there.
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
