// Which build this is; written by version.cmake at every build.
#pragma once

namespace sessa {

extern const char kVersion[];    // of the project, "0.1.0"
extern const char kCommit[];     // of git, with "-dirty" when the tree was changed; "unknown" outside a clone
extern const char kBuildType[];  // CMake's, "Release"
extern const char kSourceDir[];  // the tree it was built from, where the embedded model is looked for last

}  // namespace sessa
