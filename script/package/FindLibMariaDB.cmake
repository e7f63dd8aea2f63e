# Finds MariaDB Connector/C through its pkg-config file.
# Defines LibMariaDB::LibMariaDB, LibMariaDB_FOUND, LibMariaDB_VERSION.

find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
    pkg_check_modules(LibMariaDB_PC QUIET IMPORTED_TARGET libmariadb)
endif()
set(LibMariaDB_VERSION ${LibMariaDB_PC_VERSION})

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibMariaDB
    REQUIRED_VARS LibMariaDB_PC_LINK_LIBRARIES VERSION_VAR LibMariaDB_VERSION
    REASON_FAILURE_MESSAGE "(Debian: libmariadb-dev and pkg-config)")

if(LibMariaDB_FOUND AND NOT TARGET LibMariaDB::LibMariaDB)
    add_library(LibMariaDB::LibMariaDB INTERFACE IMPORTED)
    set_target_properties(LibMariaDB::LibMariaDB PROPERTIES
        INTERFACE_LINK_LIBRARIES PkgConfig::LibMariaDB_PC)
endif()
