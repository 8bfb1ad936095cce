# Warnings stop the build only where somebody is there to mend them: in CI, or by -DROUNDELAY_WERROR=ON.
option(ROUNDELAY_WERROR "Treat warnings as errors" OFF)

function(add_warnings target)
    target_compile_options(${target} PRIVATE -Wall -Wextra $<$<BOOL:${ROUNDELAY_WERROR}>:-Werror>)
endfunction()
