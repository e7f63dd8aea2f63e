# Finds the three assembly functions of Boost.Context: in its static archive only, since a
# shared libboost_context may hide them, and a program should not need it at run time.
# Defines Fcontext::Fcontext, Fcontext_FOUND.

find_library(Fcontext_LIBRARY NAMES libboost_context.a)
mark_as_advanced(Fcontext_LIBRARY)

set(Fcontext_LISTED "")
if(Fcontext_LIBRARY)
    # Boost can be built with another back end, and then the functions are not in there. The
    # archive's own table of symbols tells; the project that asks may have no C compiler.
    file(STRINGS ${Fcontext_LIBRARY} Fcontext_LISTED REGEX "make_fcontext" LIMIT_COUNT 1)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Fcontext
    REQUIRED_VARS Fcontext_LIBRARY Fcontext_LISTED
    REASON_FAILURE_MESSAGE "(Debian: libboost-context-dev)")

if(Fcontext_FOUND AND NOT TARGET Fcontext::Fcontext)
    add_library(Fcontext::Fcontext STATIC IMPORTED)
    set_target_properties(Fcontext::Fcontext PROPERTIES IMPORTED_LOCATION ${Fcontext_LIBRARY})
endif()
