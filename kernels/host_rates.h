// How fast this machine's memory can be read, for judging how close a backend comes to it.
#pragma once

#include <cstdint>

namespace sessa {

// Bytes a second that `threads` threads read together from memory far larger than the caches. Takes about 0.2
// s.
double MeasureHostReadRate(int32_t threads);

}  // namespace sessa
