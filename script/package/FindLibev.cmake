# Finds libev, which comes with neither a pkg-config file nor a CMake package in most systems.
# Defines Libev::Libev, Libev_FOUND, Libev_VERSION.

find_path(Libev_INCLUDE_DIR ev.h PATH_SUFFIXES libev)
find_library(Libev_LIBRARY ev)
mark_as_advanced(Libev_INCLUDE_DIR Libev_LIBRARY)

if(Libev_INCLUDE_DIR)
    file(STRINGS ${Libev_INCLUDE_DIR}/ev.h _ev_version REGEX "EV_VERSION_M(AJOR|INOR) +[0-9]+")
    string(REGEX REPLACE ".*MAJOR +([0-9]+).*MINOR +([0-9]+).*" "\\1.\\2" Libev_VERSION
           "${_ev_version}")
    unset(_ev_version)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libev
    REQUIRED_VARS Libev_LIBRARY Libev_INCLUDE_DIR VERSION_VAR Libev_VERSION
    REASON_FAILURE_MESSAGE "(Debian: libev-dev)")

if(Libev_FOUND AND NOT TARGET Libev::Libev)
    add_library(Libev::Libev UNKNOWN IMPORTED)
    set_target_properties(Libev::Libev PROPERTIES
        IMPORTED_LOCATION ${Libev_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES ${Libev_INCLUDE_DIR}
        INTERFACE_LINK_LIBRARIES m) # for a static libev
endif()
