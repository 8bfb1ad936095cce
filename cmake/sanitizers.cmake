# Python itself is not compiled with the sanitizer, so its runtime has to be loaded first:
#
#   LD_PRELOAD=$(cc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 python ...
set(ROUNDELAY_SANITIZE "" CACHE STRING "Sanitizers, as -fsanitize takes them: address,undefined")

function(add_sanitizers target)
    if(ROUNDELAY_SANITIZE)
        target_compile_options(${target} PRIVATE -fsanitize=${ROUNDELAY_SANITIZE} -fno-omit-frame-pointer -g)
        target_link_options(${target} PRIVATE -fsanitize=${ROUNDELAY_SANITIZE})
        if(CMAKE_C_COMPILER_ID STREQUAL "GNU" AND ROUNDELAY_SANITIZE MATCHES "undefined")
            # GCC's libubsan.so would hand its log_path to libasan.so, which has functions of the same names, and
            # go on writing its reports to standard error.
            target_link_options(${target} PRIVATE -static-libubsan -Wl,--exclude-libs,libubsan.a)
        endif()
    endif()
endfunction()
