# Finds libmongoc through its pkg-config file.
# Defines LibMongoc::LibMongoc, LibMongoc_FOUND, LibMongoc_VERSION.

find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
    pkg_check_modules(LibMongoc_PC QUIET IMPORTED_TARGET libmongoc-1.0)
endif()
set(LibMongoc_VERSION ${LibMongoc_PC_VERSION})

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibMongoc
    REQUIRED_VARS LibMongoc_PC_LINK_LIBRARIES VERSION_VAR LibMongoc_VERSION
    REASON_FAILURE_MESSAGE "(Debian: libmongoc-dev and pkg-config)")

if(LibMongoc_FOUND AND NOT TARGET LibMongoc::LibMongoc)
    add_library(LibMongoc::LibMongoc INTERFACE IMPORTED)
    set_target_properties(LibMongoc::LibMongoc PROPERTIES
        INTERFACE_LINK_LIBRARIES PkgConfig::LibMongoc_PC)
endif()
