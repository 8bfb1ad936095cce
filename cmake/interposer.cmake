# One module of all sources, for the ABI that `definition` chooses.
file(GLOB interposer_sources CONFIGURE_DEPENDS "${interposer_folder}/*.c")

function(add_interposer module definition)
    Python_add_library(${module} MODULE WITH_SOABI ${interposer_sources} ${generated_files})
    add_dependencies(${module} generated)
    target_compile_definitions(${module} PRIVATE ${definition}=1)
    target_include_directories(${module} PRIVATE "${interposer_folder}" "${generated_folder}")
    # Only what is marked is exported: both modules may be loaded beside MPI libraries with like names.
    set_target_properties(${module} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_VISIBILITY_PRESET hidden)
    # Before glibc 2.34, these were libraries of their own.
    target_link_libraries(${module} PRIVATE -Wl,--as-needed ${CMAKE_DL_LIBS} pthread rt)
    add_warnings(${module})
    add_sanitizers(${module})
endfunction()
