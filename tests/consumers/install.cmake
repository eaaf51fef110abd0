# Installs BUILD into a fresh folder below WORK and moves the result to MOVED.
cmake_minimum_required(VERSION 3.24)

file(REMOVE_RECURSE ${WORK})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed
                COMMAND_ERROR_IS_FATAL ANY)
file(RENAME ${WORK}/installed ${MOVED})
