# The Python that the modules are for: -DPython_EXECUTABLE=..., or the first on the PATH rather than the newest of all.
set(Python_FIND_STRATEGY LOCATION)
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
