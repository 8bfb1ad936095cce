# The wrappers of MPI's functions, written by generate.py from one table.
set(interposer_folder "${PROJECT_SOURCE_DIR}/comm/interposer")
set(generated_folder "${PROJECT_BINARY_DIR}/generated")
set(generated_files "${generated_folder}/functions.h" "${generated_folder}/wrappers.c")

file(MAKE_DIRECTORY "${generated_folder}")
file(GLOB generators CONFIGURE_DEPENDS "${interposer_folder}/*.py")
add_custom_command(
    OUTPUT ${generated_files}
    # -B: a build leaves nothing in the source folder.
    COMMAND Python::Interpreter -B "${interposer_folder}/generate.py" "${generated_folder}"
    DEPENDS ${generators}
    COMMENT "Generating the wrappers of MPI's functions"
    VERBATIM)

# Both modules depend on this target: without it, make would run the script twice at the same time.
add_custom_target(generated DEPENDS ${generated_files})
