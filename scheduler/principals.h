// How much each principal was served, for fair shares.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace sessa {

// Start-time fair queueing: who has turns is served by ascending service, and who comes back after a pause
// starts level with the least served of those present, so that neither absence nor past greed is remembered.
// Engine-thread only.
class Principals {
 public:
  // One more turn of this principal. Returns its index, valid until the matching Leave.
  int32_t Enter(const std::string& name) {
    const auto [it, is_new] = index_.try_emplace(name, 0);
    if (is_new) {
      it->second = Allocate();
      service_[it->second] = floor_;
    }
    ++turns_[it->second];
    return it->second;
  }
  void Leave(const std::string& name) {
    const auto it = index_.find(name);
    if (--turns_[it->second] > 0) return;
    free_.push_back(it->second);
    index_.erase(it);
  }
  // The principal got `rows` rows of a step.
  void Serve(int32_t index, int32_t rows) { service_[index] += rows; }
  // After a step: who comes next starts here.
  void UpdateFloor() {
    bool any = false;
    double least = 0;
    for (const auto& [name, index] : index_) {
      least = any ? std::min(least, service_[index]) : service_[index];
      any = true;
    }
    if (any) floor_ = std::max(floor_, least);
  }
  const std::vector<double>& service() const { return service_; }

 private:
  int32_t Allocate() {
    if (!free_.empty()) {
      const int32_t index = free_.back();
      free_.pop_back();
      turns_[index] = 0;
      return index;
    }
    service_.push_back(0);
    turns_.push_back(0);
    return static_cast<int32_t>(service_.size()) - 1;
  }

  std::unordered_map<std::string, int32_t> index_;
  std::vector<double> service_;  // rows
  std::vector<int32_t> turns_;
  std::vector<int32_t> free_;
  double floor_ = 0;
};

}  // namespace sessa
