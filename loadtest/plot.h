// Plots as inline SVG. Colours are CSS variables of the page (--grid, --s0 ... --s3), so that they follow its
// theme.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace sessa {

struct PlotAxis {
  enum class Kind { kCount, kSeconds, kShare };  // how ticks are written: "1.2k", "3 ms", "50 %"
  std::string label;
  Kind kind = Kind::kCount;
  bool logarithmic = false;
  // The range; where low == high it is taken from the data (a linear axis then begins at 0).
  double low = 0, high = 0;
};

struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // (x, y), by ascending x for lines
  bool dots = false;                              // else a line
};

struct Plot {
  std::string title;
  PlotAxis x, y;
  std::vector<PlotSeries> series;  // at most 4
  double shaded_to = 0;            // x up to which the background is shaded (warm-up); 0: none
};

// <figure> with a caption, a legend where there are several series, and the SVG.
std::string PlotHtml(const Plot& plot);

// Ticks of a range, ascending, 2 to about 8 of them: multiples of 1, 2 or 5 times a power of ten; for a
// logarithmic range powers of ten, with 2 and 5 between them where that leaves room.
std::vector<double> Ticks(double low, double high, bool logarithmic);

std::string TickLabel(double value, PlotAxis::Kind kind);

// & < > " as entities.
std::string HtmlText(const std::string& text);

}  // namespace sessa
