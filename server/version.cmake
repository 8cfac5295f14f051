# Writes OUT, a C++ file with the version and the commit that is being built; touches it only when they change.
execute_process(COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed OR NOT commit)
  set(commit "unknown")
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT [[
#include "server/version.h"

namespace sessa {
const char kVersion[] = "@VERSION@";
const char kCommit[] = "@commit@";
const char kBuildType[] = "@BUILD_TYPE@";
const char kSourceDir[] = "@SOURCE_DIR@";
}  // namespace sessa
]])
