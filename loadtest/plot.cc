#include "loadtest/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace sessa {
namespace {

constexpr double kWidth = 640, kHeight = 300;
constexpr double kLeft = 84, kRight = 14, kTop = 10, kBottom = 50;

// Maps an axis to pixels.
class Scale {
 public:
  Scale(const PlotAxis& axis, const std::vector<PlotSeries>& series, bool is_x, double from, double to)
      : axis_(axis), from_(from), to_(to) {
    if (axis_.low == axis_.high) FitToData(series, is_x);
  }
  double operator()(double value) const {
    const double low = Map(axis_.low), high = Map(axis_.high);
    return from_ + (to_ - from_) * std::clamp((Map(value) - low) / (high - low), 0.0, 1.0);
  }
  const PlotAxis& axis() const { return axis_; }

 private:
  double Map(double value) const { return axis_.logarithmic ? std::log10(std::max(value, 1e-12)) : value; }

  void FitToData(const std::vector<PlotSeries>& series, bool is_x) {
    double low = INFINITY, high = -INFINITY;
    for (const PlotSeries& s : series) {
      for (const auto& [x, y] : s.points) {
        const double value = is_x ? x : y;
        if (axis_.logarithmic && value <= 0) continue;
        low = std::min(low, value);
        high = std::max(high, value);
      }
    }
    if (low > high) low = axis_.logarithmic ? 1e-3 : 0, high = 1;
    if (axis_.logarithmic) {
      axis_.low = low / 1.15;
      axis_.high = high * 1.15;
    } else {
      axis_.low = std::min(0.0, low);
      axis_.high = high > axis_.low ? (is_x ? high : high * 1.06) : axis_.low + 1;
    }
  }

  PlotAxis axis_;
  double from_, to_;
};

std::string Axes(const Scale& x, const Scale& y) {
  std::string svg;
  for (double tick : Ticks(x.axis().low, x.axis().high, x.axis().logarithmic)) {
    absl::StrAppendFormat(&svg, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>",
                          x(tick), x(tick), kTop, kHeight - kBottom);
    absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", x(tick),
                          kHeight - kBottom + 18, TickLabel(tick, x.axis().kind));
  }
  for (double tick : Ticks(y.axis().low, y.axis().high, y.axis().logarithmic)) {
    absl::StrAppendFormat(&svg, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>",
                          kLeft, kWidth - kRight, y(tick), y(tick));
    absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", kLeft - 6,
                          y(tick) + 5, TickLabel(tick, y.axis().kind));
  }
  absl::StrAppendFormat(&svg,
                        "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n",
                        (kLeft + kWidth - kRight) / 2, kHeight - 8, HtmlText(x.axis().label));
  absl::StrAppendFormat(
      &svg,
      "<text class=\"label\" transform=\"translate(14 %.1f) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
      (kTop + kHeight - kBottom) / 2, HtmlText(y.axis().label));
  return svg;
}

std::string SeriesSvg(const PlotSeries& series, size_t index, const Scale& x, const Scale& y) {
  std::string svg;
  if (series.dots) {
    absl::StrAppendFormat(&svg, "<g class=\"dots s%d\">", index);
    for (const auto& [px, py] : series.points) {
      absl::StrAppendFormat(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"1.8\"/>", x(px), y(py));
    }
    return svg + "</g>\n";
  }
  absl::StrAppendFormat(&svg, "<polyline class=\"line s%d\" points=\"", index);
  for (const auto& [px, py] : series.points) absl::StrAppendFormat(&svg, "%.1f,%.1f ", x(px), y(py));
  return svg + "\"/>\n";
}

std::vector<double> LogarithmicTicks(double low, double high) {
  const bool wide = std::log10(high / low) > 2.5;
  std::vector<double> ticks;
  for (int power = static_cast<int>(std::floor(std::log10(low))); std::pow(10, power) <= high; ++power) {
    for (double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10, power);
      if ((factor == 1 || !wide) && tick >= low && tick <= high) ticks.push_back(tick);
    }
  }
  return ticks;
}

}  // namespace

std::vector<double> Ticks(double low, double high, bool logarithmic) {
  if (!(high > low)) return {low};
  if (logarithmic && high / low > 4) return LogarithmicTicks(low, high);
  const double raw = (high - low) / 6;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double step = power * (raw / power <= 1 ? 1 : raw / power <= 2 ? 2 : raw / power <= 5 ? 5 : 10);
  std::vector<double> ticks;
  // Whole multiples, so that 0 is exactly 0.
  for (int64_t i = std::llround(std::ceil(low / step - 1e-9)); i * step <= high * (1 + 1e-9); ++i) {
    ticks.push_back(i * step);
  }
  return ticks;
}

std::string TickLabel(double value, PlotAxis::Kind kind) {
  const double size = std::abs(value);
  switch (kind) {
    case PlotAxis::Kind::kSeconds:
      if (size == 0) return "0";
      if (size < 1e-3) return absl::StrFormat("%g us", std::round(value * 1e8) / 100);
      if (size < 1) return absl::StrFormat("%g ms", std::round(value * 1e5) / 100);
      return absl::StrFormat("%g s", std::round(value * 100) / 100);
    case PlotAxis::Kind::kShare:
      return absl::StrFormat("%g %%", std::round(value * 1000) / 10);
    case PlotAxis::Kind::kCount:
      if (size >= 1e6) return absl::StrFormat("%gM", std::round(value / 1e4) / 100);
      if (size >= 1e4) return absl::StrFormat("%gk", std::round(value / 10) / 100);
      return absl::StrFormat("%g", std::round(value * 1000) / 1000);
  }
  return "";
}

std::string HtmlText(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string PlotHtml(const Plot& plot) {
  const Scale x(plot.x, plot.series, true, kLeft, kWidth - kRight);
  const Scale y(plot.y, plot.series, false, kHeight - kBottom, kTop);
  std::string html = absl::StrCat("<figure><figcaption>", HtmlText(plot.title));
  for (size_t i = 0; plot.series.size() > 1 && i < plot.series.size(); ++i) {
    absl::StrAppend(&html, "<span class=\"key\"><i class=\"s", i, "\"></i>", HtmlText(plot.series[i].name),
                    "</span>");
  }
  absl::StrAppendFormat(&html, "</figcaption>\n<svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">\n",
                        kWidth, kHeight, HtmlText(plot.title));
  if (plot.shaded_to > 0) {
    absl::StrAppendFormat(&html,
                          "<rect class=\"shade\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                          kLeft, kTop, x(plot.shaded_to) - kLeft, kHeight - kBottom - kTop);
  }
  absl::StrAppend(&html, Axes(x, y));
  for (size_t i = 0; i < plot.series.size(); ++i) absl::StrAppend(&html, SeriesSvg(plot.series[i], i, x, y));
  return html + "</svg></figure>\n";
}

}  // namespace sessa
